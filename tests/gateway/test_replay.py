"""Law 5: a live journal run through the core gives identical decisions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from journaled_fleet import JournaledFleet, setting, workload
from virtual_fleet import VirtualFleet

from polyslo.core.state import DISPATCH, UNHEALTHY
from polyslo.errors import ConfigError
from polyslo.gateway.decider import Decider
from polyslo.gateway.journal.reader import JournalReader, open_journals
from polyslo.gateway.journal.records import Arrival, Choice, Stay
from polyslo.gateway.journal.replay import Replayed, replay
from polyslo.gateway.journal.requests import RequestsSeen, live_scores
from polyslo.gateway.journal.shadow import Shadow, shadow_policy
from polyslo.gateway.journal.state import Arrays, capture
from polyslo.gateway.requests.request import Request

UNREST: dict[str, Any] = {"cancelled_share": 0.2, "failures": ((1.5, 0), (3.0, 1))}
POLICIES = ("polyserve", "polyserve:without=chunking,chunk=2048", "polyserve:refuse=on", "minimal", "random")


def served(path: Path, **options: Any) -> JournaledFleet:
    """Serve a burst and, after a pause, another one, with clients that leave and instances that fail."""
    fleet = JournaledFleet(path, workload(pause_s=2.0), **{**UNREST, **options})
    fleet.run()
    return fleet


def differing(one: Arrays, other: Arrays) -> list[str]:
    """Name the arrays that are not the same to the bit."""
    assert set(one) == set(other)
    return [name for name in one if one[name].tobytes() != other[name].tobytes()]


@pytest.mark.parametrize("hidden", [False, True], ids=["streamed", "hidden"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_replay_decides_what_was_decided_live(tmp_path: Path, policy: str, hidden: bool) -> None:
    """Overload, cancellations and failures: each action is the same, and the belief at the end, bit for bit."""
    fleet = served(tmp_path / "journal", policy=policy, hidden=hidden)
    found = Replayed()
    decider = replay(JournalReader(tmp_path / "journal"), found)
    assert found.difference is None
    assert found.num_inputs > len(fleet.workload)
    assert found.actions["dispatch"] >= fleet.num_sent
    assert found.num_closings == 2
    assert differing(capture(decider), fleet.final) == []


@pytest.mark.parametrize("hidden", [False, True], ids=["streamed", "hidden"])
@pytest.mark.parametrize("policy", ["polyserve", "polyserve:refuse=on", "minimal"])
def test_a_replay_of_prefill_apart_from_decode_decides_the_same(tmp_path: Path, policy: str, hidden: bool) -> None:
    """Transfers that pass by time alone, are shown, or lost with a client or an instance: the same, bit for bit."""
    fleet = served(tmp_path / "journal", policy=policy, hidden=hidden, mode="pd", num_instances=4)
    found = Replayed()
    decider = replay(JournalReader(tmp_path / "journal"), found)
    assert found.difference is None
    assert found.actions["transfer"] > 100
    assert found.num_closings == 2
    assert differing(capture(decider), fleet.final) == []
    assert not any(engine.kv_tokens for engine in fleet.engines)


def test_what_is_replayed_has_everything_that_can_happen(tmp_path: Path) -> None:
    """The load that the other tests replay makes tiers grow, and requests pend, yield and be refused."""
    served(tmp_path / "journal")
    served(tmp_path / "refusing", policy="polyserve:refuse=on")
    found, refusing = Replayed(), Replayed()
    replay(JournalReader(tmp_path / "journal"), found)
    replay(JournalReader(tmp_path / "refusing"), refusing)
    assert {"dispatch", "retier", "relegate", "withdraw"} <= set(found.actions)
    assert {"own", "promoted", "scaled_up", "from_pending"} <= set(+found.placements_by_rung)
    assert refusing.actions["refuse"] > 0
    assert any(isinstance(record, Stay) for record in JournalReader(tmp_path / "journal").records())
    kinds = Counter(type(record).__name__ for record in JournalReader(tmp_path / "refusing").records())
    assert set(kinds) == {"Entry", "Arrival", "Digest", "Loss", "Tick", "Closing", "Release", "Outcome"}


@pytest.mark.parametrize("hidden", [False, True], ids=["streamed", "hidden"])
@pytest.mark.parametrize("mode", ["co", "pd"])
@pytest.mark.parametrize("policy", ["polyserve", "polyserve:relegate=off", "minimal"])
def test_a_tick_that_is_not_recorded_changed_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, mode: str, hidden: bool
) -> None:
    """Not a bit of the belief, or a replay without it would go astray."""
    fleet = JournaledFleet(tmp_path / "journal", workload(duration_s=1.5), policy=policy, hidden=hidden, mode=mode)
    tick, num_recorded = Decider.tick, Counter[bool]()

    def checked(decider: Decider, now_s: float) -> None:
        before, held = capture(decider), fleet.journal.num_recorded
        tick(decider, now_s)
        num_recorded[fleet.journal.num_recorded > held] += 1
        if fleet.journal.num_recorded == held:
            assert differing(before, capture(decider)) == []

    monkeypatch.setattr(Decider, "tick", checked)
    fleet.run()
    assert num_recorded[False] > 10
    assert num_recorded[True] > 0 or not (hidden or policy == "polyserve")


def test_the_first_difference_is_told(tmp_path: Path) -> None:
    """Which input, when, what was decided live and what now; later inputs are not compared."""
    served(tmp_path / "journal")
    journal = JournalReader(tmp_path / "journal")
    records = list(journal.records())
    number, arrival = next(
        (k, record) for k, record in enumerate(records) if k > 500 and isinstance(record, Arrival) and record.actions
    )
    records[number] = Arrival(
        *(getattr(arrival, name) for name in Arrival.__slots__[:-1]), actions=((DISPATCH, arrival.r, 99),)
    )
    journal.records = lambda progress=None: iter(records)  # type: ignore[method-assign]
    found = Replayed()
    replay(journal, found)
    assert found.difference is not None
    assert found.difference.number == found.num_inputs < number + 2
    assert f"arrival of request {arrival.r} at" in str(found.difference)
    assert f"live dispatch {arrival.r} to 99; now dispatch" in str(found.difference)


def test_each_file_of_a_journal_is_replayed_on_its_own(tmp_path: Path) -> None:
    """In the middle of everything a new file begins, with the belief that the one before ends with."""
    fleet = served(tmp_path / "journal", rotations_s=(0.9, 1.51, 3.7), shadow="lmetric")
    journals = open_journals(sorted(tmp_path.iterdir()))
    assert [journal.path.name for journal in journals] == ["journal.3", "journal.2", "journal.1", "journal"]
    ends = []
    for journal in journals:
        found = Replayed()
        ends.append(capture(replay(journal, found)))
        assert found.difference is None
        assert found.num_inputs > 100
        assert journal.notices == []
    for before, after in zip(ends, [*(journal.state for journal in journals[1:]), fleet.final], strict=True):
        assert differing(before, dict(after)) == []


def test_requests_and_their_outcomes_come_out_of_a_journal(tmp_path: Path) -> None:
    """Each request once, also when it was sent again or its journal has several files; scored as it was live."""
    fleet = served(tmp_path / "journal", rotations_s=(0.9, 1.51, 3.7))
    seen = RequestsSeen()
    for journal in open_journals(list(tmp_path.iterdir())):
        replay(journal, Replayed(), seen)
    assert (len(seen.requests), seen.num_from_before) == (len(fleet.workload), 0)
    assert max(request.num_arrivals for request in seen.requests) == 2
    *tiers, total = live_scores(seen.requests, fleet.workload.tpots_s)
    assert total.counts == fleet.outcomes
    assert total.num_open == 0
    assert sum(tier.counts["attained"] for tier in tiers) / len(fleet.workload) == fleet.attainment
    later = RequestsSeen()
    replay(JournalReader(tmp_path / "journal"), Replayed(), later)
    assert later.num_from_before > 0


def test_a_shadow_policy_changes_nothing(tmp_path: Path) -> None:
    """Decisions and belief are those without it; its agreement is counted live and found again in the journal."""
    alone = served(tmp_path / "alone")
    with_shadow = served(tmp_path / "shadowed", shadow="slo-least-load")
    assert differing(alone.final, with_shadow.final) == []
    found = Replayed()
    replay(JournalReader(tmp_path / "shadowed"), found)
    assert found.difference is None
    assert with_shadow.shadow is not None
    assert found.agreement == with_shadow.shadow.agreement
    assert 0.0 < found.agreement.ratio < 1.0
    assert found.agreement.num_open > 0


@pytest.mark.parametrize("policy", ["round-robin", "random"])
def test_a_policy_agrees_with_itself(tmp_path: Path, policy: str) -> None:
    """With its own turn and random numbers a shadow of the policy that serves chooses as it does."""
    fleet = JournaledFleet(tmp_path / "journal", workload(duration_s=1.0), policy=policy, shadow=policy)
    fleet.run()
    assert fleet.shadow is not None
    assert fleet.shadow.agreement.num_same > 100
    if policy == "round-robin":  # the order of instances, of which random takes one, may differ between equals
        assert fleet.shadow.agreement.ratio == 1.0
    assert any(isinstance(record, Choice) for record in JournalReader(tmp_path / "journal").records())


@pytest.mark.parametrize("policy", ["polyserve", "static-tiers", "os:getcwd"])
def test_a_policy_with_tiers_is_no_shadow(policy: str) -> None:
    """Its choices depend on those before, which were not carried out."""
    with pytest.raises(ConfigError, match=r"can't be one, .* or replay the journal under it"):
        shadow_policy(policy)


def test_a_shadow_sees_closed_instances() -> None:
    """It shares what is known of instances with the policy that serves."""
    fleet = VirtualFleet(workload(), setting().named.profile, num_instances=3)
    shadow = Shadow("minimal", fleet.decider)
    for i in (0, 1):
        fleet.decider.close(i, UNHEALTHY, 0.0)
    assert shadow.choose(0, Request(0.0, 1.0, 0.05, 2, 100, 100, True), 0.0) == 2
    fleet.decider.close(2, UNHEALTHY, 0.0)
    assert shadow.choose(0, Request(0.0, 1.0, 0.05, 2, 100, 100, True), 0.0) is None
