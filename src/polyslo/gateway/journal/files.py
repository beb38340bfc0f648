"""A journal's files: `gateway.journal` is being written, `gateway.journal.1` was before it, `.2` before that.

Everything here blocks and may fail with `OSError`; it runs on the writer's thread. A new file takes the name only
when its opening is written, so a disk that is full costs no older file. Bytes are the kernel's after each write;
they are forced to the disk when a file is completed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


class JournalFiles:
    """The file being written and the `keep - 1` before it."""

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        self._keep = keep
        self._file: BinaryIO | None = None
        self.num_bytes = self.opening_bytes = 0

    def begin(self, opening: bytes) -> None:
        """End the file being written and begin one with these first bytes."""
        self.end()
        draft = self.path.with_name(self.path.name + ".part")
        file = draft.open("wb", buffering=0)
        try:
            _write_all(file, opening)
            self._shift()
            draft.replace(self.path)
        except OSError:
            file.close()
            draft.unlink(missing_ok=True)
            raise
        self._file = file
        self.num_bytes = self.opening_bytes = len(opening)

    def append(self, block: bytes) -> None:
        """Write a block behind what is there."""
        assert self._file is not None
        _write_all(self._file, block)
        self.num_bytes += len(block)

    def end(self) -> None:
        """Complete the file being written, if there is one."""
        file, self._file = self._file, None
        if file is not None:
            with file:
                os.fsync(file.fileno())

    def abandon(self) -> None:
        """Leave the file being written as it is, after a failure: its last block may be cut off."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _shift(self) -> None:
        """Make room for a new file: each older one moves a number up, the oldest goes."""
        if not self.path.exists():
            return
        if self._keep == 1:
            self.path.unlink()
            return
        for number in range(self._keep - 1, 1, -1):
            older = self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))
        self.path.replace(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


def _write_all(file: BinaryIO, data: bytes) -> None:
    """Write everything: an unbuffered file may take a part of it."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
