"""A journal: each input of a decider and what it decided, so that every decision can be made again.

Recording is appending to memory (docs/journal.md measures it); `JournalWriter` takes what came together to the disk,
on another thread. While there is no file to take it to, nothing is kept: a gap ends a file, and the next one begins
with the whole state, so that no file has a gap in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from polyslo.gateway.journal.coding import (
    pack_arrival,
    pack_choice,
    pack_closing,
    pack_digest,
    pack_entry,
    pack_loss,
    pack_outcome,
    pack_presence,
    pack_release,
    pack_resizing,
    pack_stay,
    pack_tick,
)
from polyslo.gateway.journal.records import Outcome
from polyslo.gateway.requests.request import Request

Actions = Sequence[Sequence[int]]


class Journal:
    """The `Recorder` of one decider; also told what a shadow policy would have chosen, and how requests end."""

    def __init__(self) -> None:
        self.is_open = False  # whether what is recorded will reach a file
        self.num_recorded = 0
        self.num_lost = 0  # records that no file has
        self._records = bytearray()
        self._num_held = 0

    @property
    def num_bytes(self) -> int:
        """What is held."""
        return len(self._records)

    def take(self) -> tuple[bytearray, int]:
        """Return what is held and how many records that are, and hold nothing."""
        taken = self._records, self._num_held
        self._records, self._num_held = bytearray(), 0
        return taken

    def discard(self) -> None:
        """Record nothing until it is opened again; what is held is lost."""
        self.num_lost += self.take()[1]
        self.is_open = False

    def arrived(self, r: int, request: Request, now_s: float, actions: Actions) -> None:
        """See `Recorder`."""
        self._add(pack_arrival(r, request, now_s, actions))

    def digested(
        self, news: npt.NDArray[np.int64], ended: npt.NDArray[np.int64], seen_s: float, now_s: float, actions: Actions
    ) -> None:
        """See `Recorder`."""
        self._add(pack_digest(news, ended, seen_s, now_s, actions))

    def lost(self, r: int, now_s: float, actions: Actions) -> None:
        """See `Recorder`."""
        self._add(pack_loss(r, now_s, actions))

    def ticked(self, now_s: float, actions: Actions) -> None:
        """See `Recorder`."""
        self._add(pack_tick(now_s, actions))

    def closed(self, i: int, reason: int, now_s: float, actions: Actions) -> None:
        """See `Recorder`."""
        self._add(pack_closing(i, reason, now_s, actions))

    def resized(self, i: int, kv_capacity_tokens: int, max_residents: int, now_s: float, actions: Actions) -> None:
        """See `Recorder`."""
        self._add(pack_resizing(i, kv_capacity_tokens, max_residents, now_s, actions))

    def kept(self, r: int, i: int, now_s: float, actions: Actions) -> None:
        """See `Recorder`."""
        self._add(pack_stay(r, i, now_s, actions))

    def entered(self, r: int) -> None:
        """See `Recorder`."""
        self._add(pack_entry(r))

    def released(self, r: int) -> None:
        """See `Recorder`."""
        self._add(pack_release(r))

    def ended(self, outcome: Outcome) -> None:
        """A request is over."""
        self._add(pack_outcome(outcome))

    def shadowed(self, r: int, i: int | None) -> None:
        """A shadow policy would send request `r`, which is about to arrive, to instance `i`."""
        self._add(pack_choice(r, i))

    def changed(self, i: int, name: str, is_there: bool, role: int, now_s: float) -> None:
        """An instance joined, or has left; `role` is what its slot may do from now on."""
        self._add(pack_presence(i, name, is_there, role, now_s))

    def _add(self, record: bytes) -> None:
        self.num_recorded += 1
        if not self.is_open:
            self.num_lost += 1
            return
        self._records += record
        self._num_held += 1
