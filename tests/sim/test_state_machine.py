"""Requests come, time passes, instances fall ill and recover, in any order: after every step all accounts balance.

Hypothesis looks for an order that breaks an invariant of docs/invariants.md and shrinks what it finds; random walks
go further into overload than its short examples do.
"""

from __future__ import annotations

from typing import ClassVar

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
from polyslo.sim.world import RELEGATED_OUT, TRANSFER_END
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
    options: ClassVar[dict[str, int]] = {}

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
            **self.options,
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
            self._check_belief_of_kv(i)
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
        assert requests["best_effort"][residents].sum() == instance["num_best_effort"]
        if instance["group"] < len(TPOTS_S):
            promised = residents[requests["best_effort"][residents] == 0]
            load = requests["input_tokens"][promised] + requests["expected_tokens"][promised]
            assert load.sum() == instance["committed_tokens"], "the load is not the sum of the promises"
            assert (requests["tier"][promised] == instance["group"]).sum() == instance["num_own"]
            assert instance["num_residents"] <= instance["max_residents"]

    def _check_belief_of_kv(self, i: int) -> None:
        """I4: the KV believed of an instance is the sum over its requests, those whose KV is on its way from it too."""
        instance, requests = self.world.fleet.instances[i], self.world.fleet.requests
        here = requests[: self.count][requests["instance"][: self.count] == i]
        decoding, leaving = here[here["stage"] == DECODING], here[here["stage"] == TRANSFERRING]
        queued = requests[_linked(requests, instance)]
        batch = (decoding["prefill_tokens"] + instance["iteration"] - decoding["start_iteration"]).sum()
        assert batch == instance["decode_kv_tokens"], f"I4: {batch} KV tokens decode on {i}: {instance}"
        held = batch + (queued["prefill_tokens"] - queued["remaining_tokens"]).sum() + leaving["prefill_tokens"].sum()
        assert held == instance["kv_tokens"], f"I4: {held} KV tokens are on {i}: {instance}"

    def _check_engine(self, i: int) -> None:
        """I3, I4: an engine's KV is the sum over its requests, never above its capacity, and belief agrees.

        PD: the KV of a prompt stays until its transfer ends; then it is on the other side, and belief counts it to the
        batch at once, the engine when its next iteration begins.
        """
        world = self.world
        engine, jobs = world.engines[i], world.jobs
        queue = _linked(jobs, engine)
        slots = world.slot[i, : engine["num_decodes"]]
        emitted = jobs["output_tokens"][slots] - (world.slot_finish[i, : len(slots)] - engine["iteration"])
        batch = (jobs["prefill_tokens"][slots] + emitted - jobs["emitted_tokens"][slots]).sum()
        assert batch == engine["decode_kv_tokens"]
        joining, leaving = self._members(i, "join_head"), self._leaving(i)
        held = batch + (jobs["prefill_tokens"][queue] - jobs["remaining_tokens"][queue]).sum()
        held += jobs["prefill_tokens"][joining].sum() + jobs["prefill_tokens"][leaving].sum()
        assert held == engine["kv_tokens"], f"I3: {held} KV tokens are on {i}: {engine}"
        assert engine["kv_tokens"] <= engine["kv_capacity_tokens"]
        self._check_believed(i, queue, joining)

    def _check_believed(self, i: int, queue: list[int], joining: list[int]) -> None:
        world, engine, jobs = self.world, self.world.engines[i], self.world.jobs
        believed, requests = world.fleet.instances[i], world.fleet.requests
        ahead = len(joining) if engine["busy"] else 0  # belief adds their token, too, when the iteration ends
        expected = {
            "num_decodes": engine["num_decodes"] + len(joining),
            "decode_kv_tokens": engine["decode_kv_tokens"] + jobs["prefill_tokens"][joining].sum() - ahead,
            "kv_tokens": engine["kv_tokens"] - ahead,
            **{name: engine[name] for name in ("num_queued", "iteration", "busy")},
        }
        for name in ("prefill_tokens", "remaining_tokens"):
            told = requests[name][queue]
            assert (told == jobs[name][queue]).all(), f"I4: belief and engine {i} differ in {name}"
        for name in expected:
            assert believed[name] == expected[name], f"I4: belief and engine {i} differ in {name}: {believed} {engine}"

    def _members(self, i: int, head: str) -> list[int]:
        """PD: whose KV has come: `arrived_head`, and there is no room yet; `join_head`, they wait for an iteration."""
        members, r = [], int(self.world.engines[head][i])
        while r != NONE:
            members.append(r)
            r = int(self.world.jobs["next"][r])
            assert len(members) <= MOST_REQUESTS
        return members

    def _leaving(self, i: int) -> np.ndarray:
        """PD: whose KV is on its way to another instance, which belief expects it at."""
        world, fleet = self.world, self.world.fleet
        events = world.event[: world.clock["num_events"][0]]
        _, to, r = events[(events[:, 0] == TRANSFER_END) & (events[:, 2] != NONE)].T
        arrived = [(k, member) for k in range(len(world.engines)) for member in self._members(k, "arrived_head")]
        to, r = np.concatenate([np.reshape(arrived, (-1, 2)).T.astype(np.int64), [to, r]], axis=1)
        assert (fleet.requests["stage"][r] == TRANSFERRING).all()
        assert (fleet.requests["decode_instance"][r] == to).all(), "I4: KV goes elsewhere than believed"
        assert (fleet.requests["instance"][r] == world.jobs["instance"][r]).all()
        return r[world.jobs["instance"][r] == i]


class HostingMachine(FleetMachine):
    """The same where tiers' instances host best-effort work."""

    options: ClassVar[dict[str, float]] = {"spare_ratio": 0.7}


class DisaggregatedMachine(FleetMachine):
    """The same with prefill and decode apart."""

    mode = "pd"


class FirstFromDecodeMachine(DisaggregatedMachine):
    """The decode side gives the first token, as vLLM's."""

    options: ClassVar[dict[str, int]] = {"first_from_decode": True}


class RolesMachine(DisaggregatedMachine):
    """One instance can only decode, two can only prefill, as vLLM's do."""

    options: ClassVar[dict[str, int]] = {"num_decode_only": 1, "num_prefill_only": 2, "first_from_decode": True}


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
@pytest.mark.parametrize(
    "machine", [FleetMachine, HostingMachine, DisaggregatedMachine, FirstFromDecodeMachine, RolesMachine]
)
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


@pytest.mark.parametrize("first_from_decode", [False, True])
def test_a_preempted_request_has_emitted_what_is_believed(first_from_decode):
    """I4: after the transfer nine of ten requests decode until KV runs out; what is prefilled anew is known exactly."""
    walk = DisaggregatedMachine()
    walk.options = {"first_from_decode": first_from_decode, "promote": False}
    walk.start("mean", "late")
    walk.ask(2, 1_000, 400, 5_000, 8)
    walk.ask(2, 1_000, 400, 5_000, 8)
    for _ in range(2_000):
        walk.pass_time(5)
        preempted = walk.world.jobs["num_preemptions"] > 0
        if preempted.any():
            break
    believed, true = walk.world.fleet.requests["prefill_tokens"], walk.world.jobs["prefill_tokens"]
    assert preempted.any(), "nobody was preempted"
    assert believed[preempted].tolist() == true[preempted].tolist()


FAST = settings(max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
TestFleet = pytest.mark.slow(FleetMachine.TestCase)
TestFleet.settings = FAST
TestHostingFleet = pytest.mark.slow(HostingMachine.TestCase)
TestHostingFleet.settings = FAST
TestDisaggregatedFleet = pytest.mark.slow(DisaggregatedMachine.TestCase)
TestDisaggregatedFleet.settings = FAST
TestFirstFromDecodeFleet = pytest.mark.slow(FirstFromDecodeMachine.TestCase)
TestFirstFromDecodeFleet.settings = FAST
TestFleetWithRoles = pytest.mark.slow(RolesMachine.TestCase)
TestFleetWithRoles.settings = FAST
