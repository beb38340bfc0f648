"""An engine's own counts beside ours: what is not ours leaves less room, and comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from journaled_fleet import JournaledFleet, workload

from polyslo.gateway.belief.engine_metrics import EngineLoad
from polyslo.gateway.belief.reconciliation import WINDOW, Reconciliation
from polyslo.gateway.instances.instance import Instance
from polyslo.gateway.journal.reader import JournalReader
from polyslo.gateway.journal.replay import Replayed, replay

CAPACITY, PLACES = 100_000, 64


class Model:
    """What is used of a served model."""

    def __init__(self, num_instances: int = 1) -> None:
        self.fleet = self
        self.instances = [Instance(i, f"i{i}", "http://x", None) for i in range(num_instances)]  # type: ignore[arg-type]
        self.records = [
            {"kv_capacity_tokens": CAPACITY, "max_residents": PLACES, "kv_tokens": 1000} for _ in self.instances
        ]
        self.kv_capacity_tokens = CAPACITY
        self.resized: list[tuple[int, int, int]] = []

    def resize(self, i: int, kv_capacity_tokens: int, max_residents: int) -> None:
        """Remember it."""
        self.resized.append((i, kv_capacity_tokens, max_residents))


class _Records(Model):
    def __init__(self, num_instances: int = 1) -> None:
        super().__init__(num_instances)
        self.fleet = type("Fleet", (), {"instances": self.records})()


@pytest.fixture
def model() -> Model:
    """Return a model of one instance, with nothing running, where 1,000 KV tokens are believed."""
    return _Records()


def read(reconciliation: Reconciliation, times: int, requests: int, kv_ratio: float) -> None:
    """Let an engine say so again and again."""
    for _ in range(times):
        reconciliation.read(0, EngineLoad(requests, 0, kv_ratio, CAPACITY))


def test_what_lasts_is_taken_off(model: Model) -> None:
    """Three requests and 9,000 tokens that are not ours, in all of the last readings; not before."""
    reconciliation = Reconciliation(model, takes_capacity=False)  # type: ignore[arg-type]
    read(reconciliation, WINDOW - 1, 3, 0.1)
    assert model.resized == []
    read(reconciliation, 1, 3, 0.1)
    assert model.resized == [(0, CAPACITY - 9000, PLACES - 3)]
    read(reconciliation, WINDOW, 3, 0.1)
    assert len(model.resized) == 1


def test_what_passes_is_not(model: Model) -> None:
    """Readings and belief are of different moments: one that agrees tells that the others were of that kind."""
    reconciliation = Reconciliation(model, takes_capacity=False)  # type: ignore[arg-type]
    for k in range(5 * WINDOW):
        read(reconciliation, 1, 0 if k % WINDOW == 0 else 5, 0.01 if k % WINDOW == 0 else 0.3)
    assert model.resized == []


def test_it_comes_back(model: Model) -> None:
    """When others' work is over all of the room is there again."""
    reconciliation = Reconciliation(model, takes_capacity=False)  # type: ignore[arg-type]
    read(reconciliation, WINDOW, 3, 0.5)
    read(reconciliation, 1, 0, 0.0)
    assert model.resized[-1] == (0, CAPACITY, PLACES)


def test_something_is_left_always(model: Model) -> None:
    """A full engine is believed to have a twentieth of its room."""
    reconciliation = Reconciliation(model, takes_capacity=False)  # type: ignore[arg-type]
    read(reconciliation, WINDOW, 1000, 1.0)
    assert model.resized == [(0, 5000, 3)]


@pytest.mark.parametrize("takes_capacity", [True, False])
def test_an_engines_capacity_is_believed_where_none_is_configured(model: Model, takes_capacity: bool) -> None:
    """At once: it does not change. The bound on prompts follows."""
    reconciliation = Reconciliation(model, takes_capacity=takes_capacity)  # type: ignore[arg-type]
    reconciliation.read(0, EngineLoad(0, 0, 0.0, 40_000))
    assert model.resized == ([(0, 40_000, PLACES)] if takes_capacity else [])
    assert model.kv_capacity_tokens == (40_000 if takes_capacity else CAPACITY)


def test_an_instance_that_leaves_is_forgotten(model: Model) -> None:
    """Another engine in its place begins with all of the room."""
    reconciliation = Reconciliation(model, takes_capacity=False)  # type: ignore[arg-type]
    read(reconciliation, WINDOW, 3, 0.5)
    reconciliation.forget(0)
    assert model.resized[-1] == (0, CAPACITY, PLACES)
    assert reconciliation.of(0).foreign_requests == 0


def test_a_replay_resizes_too(tmp_path: Path) -> None:
    """What is made of engines' metrics is an input of the journal: every decision after it comes out the same."""
    fleet = JournaledFleet(tmp_path / "journal", workload(duration_s=2.0))
    capacity = int(fleet.fleet.instances["kv_capacity_tokens"][1])
    fleet.clock.call_at(0.5, lambda: fleet.decider.resize(1, 6000, 4, fleet.clock.now_s()))
    fleet.clock.call_at(1.5, lambda: fleet.decider.resize(1, capacity, 1024, fleet.clock.now_s()))
    fleet.run()
    found = Replayed()
    replay(JournalReader(tmp_path / "journal"), found)
    assert found.difference is None
    assert found.num_decisions > 100
