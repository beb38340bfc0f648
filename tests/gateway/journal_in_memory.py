"""A decider's journal that needs no file: for tests that replay what they have just done."""

from __future__ import annotations

from types import SimpleNamespace

from polyslo.gateway.decider import Decider
from polyslo.gateway.journal.coding import unpack_records
from polyslo.gateway.journal.head import JournalHead
from polyslo.gateway.journal.journal import Journal
from polyslo.gateway.journal.records import Record
from polyslo.gateway.journal.replay import Replayed, replay
from polyslo.gateway.journal.state import capture, decode_state, encode_state


class JournalInMemory:
    """Records a decider from now on."""

    def __init__(self, decider: Decider, policy: str) -> None:
        self._decider = decider
        self._head = JournalHead(policy=policy, fleet={}, num_records=len(decider.fleet.requests))
        self._state = decode_state(encode_state(capture(decider)))
        self._journal = decider.recorder = Journal()
        self._journal.is_open = True
        self.records: list[Record] = []  # what was checked

    def check(self) -> Replayed:
        """Replay everything: decisions, and the belief at the end, must be the same to the bit."""
        payload = bytes(self._journal.take()[0])
        reader = SimpleNamespace(head=self._head, state=self._state, records=lambda progress: iter(self.records))
        self.records = list(unpack_records(payload))
        found = Replayed()
        again = capture(replay(reader, found))  # type: ignore[arg-type]  # it has what is read of a reader
        assert found.difference is None, str(found.difference)
        for name, array in capture(self._decider).items():
            assert again[name].tobytes() == array.tobytes(), f"the belief differs: {name}"
        return found
