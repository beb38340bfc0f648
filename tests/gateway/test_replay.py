"""Law 5: a live journal run through the core gives identical decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from journaled_fleet import JournaledFleet, workload

from polyslo.gateway.journal_reader import JournalReader
from polyslo.gateway.journal_state import Arrays, capture
from polyslo.gateway.replay import Replayed, replay

UNREST: dict[str, Any] = {"cancelled_share": 0.2, "failures": ((1.5, 0), (4.0, 1))}


def differing(one: Arrays, other: Arrays) -> list[str]:
    """Name the arrays that are not the same to the bit."""
    return [name for name in one if one[name].tobytes() != other[name].tobytes()]


@pytest.mark.parametrize("hidden", [False, True], ids=["streamed", "hidden"])
@pytest.mark.parametrize(
    "policy", ["polyserve", "polyserve:without=chunking,chunk=2048", "polyserve:refuse=on", "minimal", "random"]
)
def test_a_replay_decides_what_was_decided_live(tmp_path: Path, policy: str, hidden: bool) -> None:
    """Overload, cancellations, failures and all: each action is the same, and the belief at the end, bit for bit."""
    fleet = JournaledFleet(tmp_path / "journal", workload(60.0), policy=policy, hidden=hidden, **UNREST)
    fleet.run()
    found = Replayed()
    decider = replay(JournalReader(tmp_path / "journal"), found)
    assert found.difference is None
    assert found.num_inputs > len(fleet.workload)
    assert found.actions["dispatch"] == fleet.num_sent
    assert found.num_closings == 2
    assert differing(capture(decider), fleet.final) == []
