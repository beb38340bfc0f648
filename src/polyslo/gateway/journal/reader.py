"""Reads a journal file: its head and state, then its records, up to where the file ends or is damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from polyslo.errors import InputError
from polyslo.gateway.journal.blocks import HEAD, RECORDS, STATE, CutOffError, read_blocks
from polyslo.gateway.journal.coding import unpack_records
from polyslo.gateway.journal.head import JournalHead
from polyslo.gateway.journal.records import Record
from polyslo.gateway.journal.state import Arrays, decode_state

Progress = Callable[[int, int], None]  # bytes read, bytes in all


class JournalReader:
    """One file. Raises `InputError` for one that can't be used at all.

    `damage` says, once the records are read, why they end where they do; None for a good file. A file that is cut off
    within its last block is a good one: that is how a gateway that is killed leaves it; `notices` tells it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.damage: str | None = None
        try:
            with self.path.open("rb") as file:
                blocks = read_blocks(file)
                self.head = JournalHead.decode(_expect(blocks, HEAD))
                self.state: Arrays = decode_state(_expect(blocks, STATE))
        except OSError as error:
            raise InputError(f"{path}: can't be read, {error.strerror}; check the path") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        self.notices = self.head.notices()

    def records(self, progress: Progress | None = None) -> Iterator[Record]:
        """Yield the records, in order."""
        num_bytes = self.path.stat().st_size
        with self.path.open("rb") as file:
            try:
                for kind, payload in read_blocks(file):
                    if kind == RECORDS:
                        yield from unpack_records(payload)
                    if progress is not None:
                        progress(file.tell(), num_bytes)
            except CutOffError as error:
                self._note(f"{error}: the rest of {num_bytes:,} bytes, a quarter of a second or less, is ignored")
            except InputError as error:
                self.damage = f"{self.path}: {error}; what stands before it was read"

    def _note(self, notice: str) -> None:
        if notice not in self.notices:
            self.notices.append(notice)


def open_journals(paths: Sequence[str | Path]) -> list[JournalReader]:
    """Open files in order of time, each noting whether it follows the one before without a gap."""
    journals = sorted(map(JournalReader, paths), key=lambda journal: journal.head.began_unix_s)
    for before, after in pairwise(journals):
        follows = after.head.run == before.head.run and after.head.sequence == before.head.sequence + 1
        if not follows:
            after.notices.append(f"does not follow {before.path.name} at once: something between is missing")
    return journals


def _expect(blocks: Iterator[tuple[int, bytes]], kind: int) -> bytes:
    """Return the next block, which must be of a kind."""
    found, payload = next(blocks, (None, b""))
    if found != kind:
        raise InputError(f"expected block {kind}, got {found}; name a file that [journal] wrote")
    return payload
