"""Requests come, time passes, instances fall ill and recover, in any order: after every step all accounts balance.

Hypothesis looks for an order that breaks an invariant of docs/invariants.md and shrinks what it finds; random walks
go further into overload than its short examples do.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from polyslo.core.state import (
    DECODING,
    DONE,
    FALLBACK,
    FITS,
    NONE,
    PENDING,
    QUEUED,
    REFUSED,
    TRANSFERRING,
    UNHEALTHY,
)
from polyslo.profiles.library import load_profile
from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.loop import FINISHED, PAUSED, advance
from polyslo.sim.run import build_world
from polyslo.sim.world import RELEGATED_OUT
from polyslo.workload.workload import Workload

from .invariants import check_groups, check_run

PROFILE = load_profile("llama-3.1-8b-h200-tp1").profile
CAPACITY = 12_000  # KV tokens: small, so that memory refuses and preempts
TPOTS_S = (0.02, 0.05, 0.1)
MOST_REQUESTS = 400
LENGTHS = ("known", "learned", "mean")
OVERLOADS = ("relegate", "refuse", "late")
TTFTS_MS = (100, 300, 500, 1_000, 5_000)
PAUSES_MS = (1, 5, 20, 100, 500, 3_000)


class FleetMachine(RuleBasedStateMachine):
    """A fleet of four under `polyserve`; what the router believes and what engines do must agree at every pause."""

    mode = "co"

    @initialize(lengths=st.sampled_from(LENGTHS), overload=st.sampled_from(OVERLOADS))
    def start(self, lengths: str, overload: str) -> None:
        """Four idle instances."""
        self.config = FleetConfig(
            num_instances=4,
            mode=self.mode,
            lengths=lengths,
            kv_capacity_tokens=CAPACITY,
            relegate=overload == "relegate",
            refuse=overload == "refuse",
            max_residents=64,
        )
        self.workload = _blank_workload()
        self.world = build_world(self.workload, PROFILE, PolicySpec.parse("polyserve"), self.config)
        self.world.arrivals_s[:] = np.inf
        self.world.jobs["outcome"] = 0
        self.now_s, self.count, self.ill, self.was_ill = 0.0, 0, set(), False

    @rule(
        tier=st.integers(0, len(TPOTS_S) - 1),
        input_tokens=st.integers(1, 6_000),
        output_tokens=st.integers(1, 400),
        ttft_ms=st.sampled_from(TTFTS_MS),
        copies=st.integers(1, 8),
    )
    def ask(self, tier: int, input_tokens: int, output_tokens: int, ttft_ms: int, copies: int) -> None:
        """Some equal requests arrive."""
        for _ in range(min(copies, MOST_REQUESTS - self.count)):
            self._enter(tier, input_tokens, output_tokens, ttft_ms / 1e3)
        self._run_until(self.now_s)

    @rule(ms=st.sampled_from(PAUSES_MS))
    def pass_time(self, ms: int) -> None:
        """Engines work."""
        self._run_until(self.now_s + ms / 1e3)

    @rule(i=st.integers(0, 3))
    def fall_ill(self, i: int) -> None:
        """An instance takes no new requests; at most two at once."""
        if len(self.ill) < 2:
            self.ill.add(i)
            self.was_ill = True
            self.world.fleet.instances["closed"][i] = UNHEALTHY

    @precondition(lambda self: self.ill)
    @rule()
    def recover(self) -> None:
        """An instance takes requests again."""
        self.world.fleet.instances["closed"][self.ill.pop()] = FITS

    @invariant()
    def accounts_balance(self) -> None:
        """I1, I3, I4, I9, I10, after every step."""
        fleet, arrived = self.world.fleet, self.world.fleet.requests[: self.count]
        check_groups(self.world)
        self._check_places(arrived)
        for i in range(4):
            self._check_instance(i)
            self._check_engine(i)
        for tier in range(len(TPOTS_S)):
            heap = fleet.pending[tier, : fleet.pending_size[tier]]
            assert (fleet.requests["stage"][heap] == PENDING).all()
            assert (fleet.requests["tier"][heap] == tier).all()

    @invariant()
    def promises_are_kept(self) -> None:
        """I12: with known lengths nobody who was admitted is late, whatever came after.

        Unless hopeless requests are served late: they have the earliest deadlines and go first.
        """
        if self.config.lengths != "known" or self.was_ill or not (self.config.relegate or self.config.refuse):
            return
        jobs, requests = self.world.jobs[: self.count], self.world.fleet.requests[: self.count]
        admitted = (requests["rung"] != FALLBACK) & (jobs["outcome"] != RELEGATED_OUT)
        late = np.flatnonzero((jobs["late"] == 1) & admitted)
        assert not len(late), f"I12: request {late[0]}: {requests[late[0]]} {jobs[late[0]]}"

    def teardown(self) -> None:
        """Let everything end, and check what holds at the end of a run."""
        if not hasattr(self, "world"):
            return
        self.world.fleet.instances["closed"] = FITS
        self.world.arrivals_s[self.count :] = np.inf
        self.world.clock["pause_s"] = np.inf
        assert advance(self.world.handle) == FINISHED
        self.world.clock["cursor"] = len(self.workload)
        ended = np.arange(len(self.workload)) < self.count
        self.world.jobs["outcome"][~ended] = RELEGATED_OUT
        self.world.jobs["last_token_s"][~ended] = 1.0
        self.world.jobs["emitted_tokens"][~ended] = self.world.jobs["output_tokens"][~ended]
        check_run(self.world, self.workload, elastic=True)

    def _enter(self, tier: int, input_tokens: int, output_tokens: int, ttft_s: float) -> None:
        r, world = self.count, self.world
        self.count += 1
        requests, jobs = world.fleet.requests, world.jobs
        self.workload.arrival_s[r], self.workload.ttft_s[r] = self.now_s, ttft_s
        self.workload.tpot_s[r], self.workload.tier[r] = TPOTS_S[tier], tier
        self.workload.input_tokens[r], self.workload.output_tokens[r] = input_tokens, output_tokens
        requests["arrival_s"][r] = self.now_s
        requests["tier"][r] = tier
        requests["max_tokens"][r] = CAPACITY - input_tokens
        if self.config.lengths == "known":
            requests["expected_tokens"][r] = output_tokens
        for records in (requests, jobs):
            records["first_due_s"][r] = self.now_s + ttft_s
            records["tpot_s"][r] = TPOTS_S[tier]
            records["input_tokens"][r] = input_tokens
        jobs["prefill_tokens"][r] = jobs["remaining_tokens"][r] = input_tokens
        jobs["output_tokens"][r] = output_tokens
        world.arrivals_s[r] = self.now_s

    def _run_until(self, now_s: float) -> None:
        before_s = float(self.world.clock["now_s"][0])
        self.now_s = now_s
        self.world.clock["pause_s"] = now_s
        assert advance(self.world.handle) == PAUSED
        assert before_s <= self.world.clock["now_s"][0] <= now_s, "I8: the clock ran back, or on"

    def _check_places(self, arrived: np.ndarray) -> None:
        """I1: each request is in exactly one place."""
        fleet = self.world.fleet
        places = np.zeros(self.count, dtype=int)
        for queue in range(len(TPOTS_S) + 1):
            places[fleet.pending[queue, : fleet.pending_size[queue]]] += 1
        for i in range(4):
            places[_linked(fleet.requests, fleet.instances[i])] += 1
        places += arrived["stage"] == DECODING
        places += arrived["stage"] == TRANSFERRING
        places += np.isin(arrived["stage"], (DONE, REFUSED))
        assert (places == 1).all(), f"I1: request {np.flatnonzero(places != 1)[0]} is in {places} places"

    def _check_instance(self, i: int) -> None:
        """I4: what belief holds of an instance is the sum of what it holds of its requests."""
        fleet = self.world.fleet
        instance, requests = fleet.instances[i], fleet.requests
        queue = _linked(requests, instance)
        assert (requests["stage"][queue] == QUEUED).all()
        assert len(queue) == instance["num_queued"]
        assert requests["remaining_tokens"][queue].sum() == instance["queued_tokens"]
        residents = fleet.resident[i, : instance["num_residents"]]
        assert len(set(residents.tolist())) == len(residents)
        assert (np.diff(fleet.resident_finish[i, : len(residents)]) >= 0).all()
        decoding = (requests["stage"][: self.count] == DECODING) & (requests["instance"][: self.count] == i)
        assert decoding.sum() == instance["num_decodes"]
        here = np.zeros(self.count, dtype=bool)
        if instance["group"] != len(TPOTS_S):
            here[queue] = True
        reserved = requests["decode_instance"][: self.count] == i
        assert set(residents.tolist()) == set(np.flatnonzero(here | decoding | reserved).tolist())
        if instance["group"] < len(TPOTS_S):
            load = requests["input_tokens"][residents] + requests["expected_tokens"][residents]
            assert load.sum() == instance["committed_tokens"], "the load is not the sum of the promises"
            assert (requests["tier"][residents] == instance["group"]).sum() == instance["num_own"]
            assert instance["num_residents"] <= instance["max_residents"]

    def _check_engine(self, i: int) -> None:
        """I3, I4: an engine's KV is the sum over its requests, never above its capacity, and belief agrees."""
        world = self.world
        engine, jobs = world.engines[i], world.jobs
        queue = _linked(jobs, engine)
        slots = world.slot[i, : engine["num_decodes"]]
        emitted = jobs["output_tokens"][slots] - (world.slot_finish[i, : len(slots)] - engine["iteration"])
        held = (jobs["prefill_tokens"][queue] - jobs["remaining_tokens"][queue]).sum()
        held += (jobs["prefill_tokens"][slots] + emitted - jobs["emitted_tokens"][slots]).sum()
        assert engine["kv_tokens"] <= engine["kv_capacity_tokens"]
        if self.mode == "co":
            assert held == engine["kv_tokens"]
            for name in ("kv_tokens", "num_decodes", "decode_kv_tokens", "num_queued", "iteration", "busy"):
                assert engine[name] == world.fleet.instances[name][i], f"I4: belief and engine differ in {name}"


class DisaggregatedMachine(FleetMachine):
    """The same with prefill and decode apart."""

    mode = "pd"


def _linked(requests: np.ndarray, holder: np.void) -> list[int]:
    """Return a prefill queue's members, checking its links."""
    members, previous, r = [], NONE, int(holder["queue_head"])
    while r != NONE:
        assert requests["previous"][r] == previous
        members.append(r)
        previous, r = r, int(requests["next"][r])
        assert len(members) <= MOST_REQUESTS
    assert holder["queue_tail"] == previous
    return members


def _blank_workload() -> Workload:
    count = MOST_REQUESTS
    return Workload(
        name="machine",
        arrival_s=np.linspace(0.0, 1e-6, count),
        input_tokens=np.ones(count, np.int32),
        output_tokens=np.ones(count, np.int32),
        ttft_s=np.ones(count),
        tpot_s=np.full(count, 0.1),
        tpots_s=TPOTS_S,
        tier=np.zeros(count, np.int32),
        num_ttft_raised=0,
    )


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("machine", [FleetMachine, DisaggregatedMachine])
def test_all_accounts_balance_on_long_random_walks(machine, seed):
    """I1, I3, I4, I8 to I12, I21 after each of 60 steps, half of which bring up to eight requests."""
    random = np.random.default_rng(seed)
    walk = machine()
    walk.start(LENGTHS[random.integers(3)], OVERLOADS[random.integers(3)])
    for _ in range(60):
        step = random.random()
        if step < 0.5:
            input_tokens, output_tokens = int(6_000 ** random.random()), int(random.integers(1, 400))
            tier, ttft_ms = int(random.integers(3)), TTFTS_MS[random.integers(5)]
            walk.ask(tier, input_tokens, output_tokens, ttft_ms, int(random.integers(1, 9)))
        elif step < 0.93:
            walk.pass_time(PAUSES_MS[random.integers(6)])
        elif step < 0.97:
            walk.fall_ill(int(random.integers(4)))
        elif walk.ill:
            walk.recover()
        walk.accounts_balance()
        walk.promises_are_kept()
    walk.teardown()


FAST = settings(max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
TestFleet = pytest.mark.slow(FleetMachine.TestCase)
TestFleet.settings = FAST
TestDisaggregatedFleet = pytest.mark.slow(DisaggregatedMachine.TestCase)
TestDisaggregatedFleet.settings = FAST
