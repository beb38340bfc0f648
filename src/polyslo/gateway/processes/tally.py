"""What a gateway's processes count: a row of numbers each, in memory that all of them see.

Each process writes its own row and nobody else's, so nothing is locked; everybody may read all of them. So the bound
on connections holds over all carriers together (two that accept in the same instant may exceed it by one), and
metrics have the carriers' counts without asking.
"""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np

# Of clients: connections that are open; since the start connections, those of them that were too many, and requests
# that were no HTTP, too large or too slow.
COUNTS = ("open", "accepted", "turned_away", "malformed")
OPEN, ACCEPTED, TURNED_AWAY, MALFORMED = range(len(COUNTS))
_ITEM_BYTES = 8


class Tally:
    """The rows of all processes."""

    def __init__(self, num_rows: int, fd: int | None = None) -> None:
        """Make it, or open the one that `fd` refers to; it stays open."""
        num_bytes = num_rows * len(COUNTS) * _ITEM_BYTES
        self.fd = _shared_file(num_bytes) if fd is None else fd
        self._is_open = True
        self._memory = mmap.mmap(self.fd, num_bytes)
        self.rows = np.frombuffer(self._memory, dtype=np.int64).reshape(num_rows, len(COUNTS))

    def lose(self, row: int) -> None:
        """A process is gone, and its connections with it; what it counted since its start stays."""
        self.rows[row, OPEN] = 0

    def close(self) -> None:
        """Let go of the file, once; the memory goes with the last process."""
        if self._is_open:
            self._is_open = False
            os.close(self.fd)


class RowOfTally:
    """One process's row; the `Census` of its listener."""

    def __init__(self, tally: Tally, row: int, max_connections: int) -> None:
        self._open_ones = tally.rows[:, OPEN]
        self._row = tally.rows[row]
        self.max_connections = max_connections

    def entered(self) -> bool:
        """See `Census`: the bound is on all processes' connections together."""
        self._row[OPEN] += 1
        self._row[ACCEPTED] += 1
        fits = int(self._open_ones.sum()) <= self.max_connections
        if not fits:
            self._row[TURNED_AWAY] += 1
        return fits

    def left(self) -> None:
        """See `Census`."""
        self._row[OPEN] -= 1

    def refused(self) -> None:
        """See `Census`."""
        self._row[MALFORMED] += 1


def _shared_file(num_bytes: int) -> int:
    """Return a file that has no name and that children may be given."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("polyslo")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, num_bytes)
    return fd
