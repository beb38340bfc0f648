"""What must hold during and at the end of every simulated run; the numbers are those of docs/invariants.md."""

from __future__ import annotations

import numpy as np

from polyslo.core.state import DECODE_ONLY, NEW, NONE, PREFILL_ONLY
from polyslo.sim.loop import PAUSED, advance
from polyslo.sim.run import build_world, run_world
from polyslo.sim.world import ATTAINED, MISSED, REFUSED_OUT, RELEGATED_OUT, UNFINISHED, World

BELIEF_FIELDS = (
    "num_residents",
    "num_decodes",
    "num_queued",
    "queued_tokens",
    "decode_kv_tokens",
    "kv_tokens",
    "committed_tokens",
)
ENGINE_FIELDS = ("num_decodes", "num_queued", "decode_kv_tokens", "kv_tokens", "busy")
ASKED_FIELDS = ("first_due_s", "tpot_s", "input_tokens", "output_tokens")
RISING = {
    "clock": ("cursor", "sequence", "num_iterations", "num_preemptions", "fact_head", "fact_tail"),
    "engines": ("iteration", "busy_s"),
    "jobs": ("late", "num_preemptions", "emitted_tokens"),
}
NUM_LOOKS = 150


def run_checked(workload, profile, policy, config, *, seed=0, truth=None, exact=True, every_moment=False) -> World:
    """Run to the end and check every invariant on the way out; `exact` asks belief to equal the truth."""
    world = build_world(workload, profile, policy, config, seed=seed, truth=truth)
    run_watched(world, policy.place, every_moment=every_moment)
    check_run(world, workload, elastic=policy.kind.elastic and "elasticity" not in policy.without, exact=exact)
    return world


def run_to_end(world: World, place=None, *, exact: bool | None = None) -> None:
    """Do as `run_world` does, watched, and check what holds at the end.

    Belief ends as empty as the engines unless news are late or the engines are not as fast as believed.
    """
    run_watched(world, place)
    clock, slowness = world.clock[0], world.engines["slowness"]
    if exact is None:
        exact = bool(clock["delay_s"] == 0 and clock["noise_ratio"] == 0 and (slowness == 1).all())
    check_run(world, exact=exact)


def run_watched(world: World, place=None, *, every_moment: bool = False) -> None:
    """Do as `run_world` does, with `NUM_LOOKS` looks on the way, or one at every moment at which something happens.

    An external policy has the run looked at whenever it is asked.
    """
    watch = Watch(world)
    if place is not None:

        def watched_place(fleet, r, now_s):
            watch.look(now_s)
            return place(fleet, r, now_s)

        run_world(world, watched_place)
    else:
        gap_s = 0.0 if every_moment else (world.arrivals_s[-1] - world.arrivals_s[0]) / NUM_LOOKS
        while np.isfinite(moment_s := next_moment_s(world)):
            world.clock["pause_s"] = max(moment_s, watch.now_s + gap_s)
            assert advance(world.handle) == PAUSED
            assert next_moment_s(world) > world.clock["pause_s"][0], "I8: something that was due did not happen"
            watch.look(moment_s, exactly=every_moment)
        world.clock["pause_s"] = np.inf
        run_world(world)  # what pends at the end
    watch.look(watch.now_s)


def next_moment_s(world: World) -> float:
    """Return when the next arrival, event or fact is due; inf when none is."""
    clock = world.clock[0]
    moments = [np.inf]
    if clock["cursor"] < len(world.arrivals_s):
        moments.append(world.arrivals_s[clock["cursor"]])
    if clock["num_events"] > 0:
        moments.append(world.event_s[: clock["num_events"]].min())
    if clock["fact_head"] < clock["fact_tail"]:
        moments.append(world.fact_s[clock["fact_head"] % len(world.fact), 0])
    return float(min(moments))


class Watch:
    """I8 between two looks at a run: time went on, whatever is new is of that time, and nothing was undone."""

    def __init__(self, world: World) -> None:
        """Begin now."""
        self.world = world
        self.now_s = float(world.clock["now_s"][0]) if world.clock["sequence"][0] else -np.inf
        self.asked = world.jobs[list(ASKED_FIELDS)].copy()
        self._keep()

    def look(self, least_s: float, *, exactly: bool = False) -> None:
        """Check what happened since the last look, at `least_s` or later; `exactly`: then, and at no other time."""
        world, before_s, now_s = self.world, self.now_s, float(self.world.clock["now_s"][0])
        assert now_s >= max(before_s, least_s), f"I8: the clock ran back to {now_s} from {before_s} or {least_s}"
        assert not exactly or now_s == least_s, f"I8: the clock shows {now_s} at {least_s}"
        self._check_queues(now_s)
        since_s = least_s if exactly else before_s
        for records, names in (("jobs", ("first_token_s", "last_token_s")), ("fleet.requests", ("decided_s",))):
            for name in names:
                old, new = self.kept[records, name], self._field(records, name)
                changed = ~((old == new) | (np.isnan(old) & np.isnan(new)))
                assert not (changed & (old > 0)).any() or name == "decided_s", f"I8: {records}.{name} was rewritten"
                times_s = new[changed]
                wrong = ~((times_s >= since_s) & (times_s <= now_s))
                assert not wrong.any(), f"I8: {name} {times_s[wrong]}, set between {since_s} and {now_s}"
        for records, names in RISING.items():
            for name in names:
                fell = self._field(records, name) < self.kept[records, name]
                assert not fell.any(), f"I8: {records}.{name} fell at {np.flatnonzero(fell)[:5]}"
        left = (self.kept["jobs", "outcome"] != UNFINISHED) & (
            self._field("jobs", "outcome") != self.kept["jobs", "outcome"]
        )
        assert not left.any(), f"I1: the outcome of {np.flatnonzero(left)[:5]} changed after its end"
        assert (world.jobs[list(ASKED_FIELDS)] == self.asked).all(), "what a request asks for was changed"
        to_come = world.fleet.requests[world.clock["cursor"][0] :]
        assert (to_come["stage"] == NEW).all(), "I22: something was done to a request before it arrived"
        assert (to_come["instance"] == NONE).all(), "I22: a request was placed before it arrived"
        self.now_s = now_s
        self._keep()

    def _check_queues(self, now_s: float) -> None:
        """Nothing under way is of the past, the heap is one, and news come in the order in which things happened."""
        world, clock = self.world, self.world.clock[0]
        due_s = world.event_s[: clock["num_events"]]
        assert (due_s >= now_s).all(), f"I8: events of the past are left at {now_s}: {due_s[due_s < now_s]}"
        if len(due_s) > 1:
            child = np.arange(1, len(due_s))
            assert (due_s[(child - 1) // 2] <= due_s[child]).all(), "I8: the earliest event is not the first"
        under_way = np.arange(clock["fact_head"], clock["fact_tail"]) % len(world.fact)
        seen_s, happened_s = world.fact_s[under_way].T
        assert (seen_s >= now_s).all(), "I8: news of the past are left"
        assert (happened_s <= now_s).all(), "I8: news of what has not happened"
        assert (np.diff(happened_s) >= 0).all(), "I8: news are not in the order in which things happened"

    def _keep(self) -> None:
        names = {
            "jobs": ("first_token_s", "last_token_s", "outcome", *RISING["jobs"]),
            "fleet.requests": ("decided_s",),
        }
        fields = {**RISING, **names}
        self.kept = {
            (records, name): self._field(records, name).copy() for records in fields for name in fields[records]
        }

    def _field(self, records: str, name: str) -> np.ndarray:
        holder = self.world.fleet.requests if records == "fleet.requests" else getattr(self.world, records)
        return holder[name]


def check_run(world: World, workload=None, *, elastic: bool | None = None, exact: bool = True) -> None:
    """Check I1 to I11 and I21 on a run that has ended. `exact` asks the belief to be empty as well.

    Without `workload` and `elastic`, what the world was built with counts.
    """
    check_outcomes(world)
    check_times(world, workload)
    check_engines_empty(world)
    check_groups(world)
    num_requests = len(world.jobs) if workload is None else len(workload)
    assert len(world.jobs) == num_requests
    assert world.clock["cursor"][0] == num_requests, "I1: arrivals were left over"
    assert world.clock["num_events"][0] == 0, "I8: events were left over"
    assert world.clock["fact_head"][0] == world.clock["fact_tail"][0], "I8: facts were left over"
    assert not world.fleet.pending_size[:-1].any(), f"I5: pending at the end: {world.fleet.pending_size}"
    if exact:
        check_belief_empty(world)
    if world.fleet.settings["elastic"][0] if elastic is None else elastic:
        check_pool_full(world)
        if world.fleet.settings["cold_start_s"][0] == 0:
            check_relegated_served(world)


def check_outcomes(world: World) -> None:
    """I1, I2: every arrival ends exactly once, and says how."""
    outcome = world.jobs["outcome"]
    lost = np.flatnonzero(outcome == UNFINISHED)
    assert not len(lost), f"I1: {len(lost)} requests never ended, first {lost[:5]}"
    assert np.isin(outcome, (ATTAINED, MISSED, RELEGATED_OUT, REFUSED_OUT)).all()
    served = np.isin(outcome, (ATTAINED, MISSED))
    emitted, asked = world.jobs["emitted_tokens"], world.jobs["output_tokens"]
    assert (emitted[served] == asked[served]).all(), "I2: a served request lacks or exceeds its output"
    assert not world.jobs["late"][outcome == ATTAINED].any(), "I2: attained with a late token"
    assert world.jobs["late"][outcome == MISSED].all(), "I2: missed without a late token"
    refused = outcome == REFUSED_OUT
    assert (emitted[refused] == 0).all(), "I2: a refused request got tokens"


def check_times(world: World, workload=None) -> None:
    """I6, I7: tokens come after arrival, in order, and the outcome agrees with the first token's deadline."""
    jobs = world.jobs
    arrival_s, first_due_s, tpot_s = world.arrivals_s, jobs["first_due_s"], jobs["tpot_s"]
    if workload is not None:
        arrival_s, first_due_s, tpot_s = workload.arrival_s, workload.arrival_s + workload.ttft_s, workload.tpot_s
    served = np.isin(jobs["outcome"], (ATTAINED, MISSED))
    first_s, last_s = jobs["first_token_s"][served], jobs["last_token_s"][served]
    assert np.isfinite(first_s).all()
    assert np.isfinite(last_s).all()
    assert (first_s > arrival_s[served]).all(), "I6: a first token before its arrival"
    assert (last_s >= first_s).all(), "I6: a last token before the first"
    several = jobs["output_tokens"][served] > 1
    assert (last_s[several] > first_s[several]).all(), "I6: two tokens at once"
    good = jobs["outcome"] == ATTAINED
    due_s = first_due_s[good]
    assert (jobs["first_token_s"][good] <= due_s + 1e-6).all(), "I7: attained with a late first token"
    last_due_s = due_s + (jobs["output_tokens"][good] - 1) * tpot_s[good]
    assert (jobs["last_token_s"][good] <= last_due_s + 1e-6).all(), "I7: attained with a late last token"


def check_relegated_served(world: World) -> None:
    """I21: what was relegated was served in the end, on instances that were idle."""
    relegated = world.jobs["outcome"] == RELEGATED_OUT
    assert (world.jobs["last_token_s"][relegated] > 0).all(), "I21: a relegated request was never served"
    emitted, asked = world.jobs["emitted_tokens"][relegated], world.jobs["output_tokens"][relegated]
    assert (emitted == asked).all(), "I21: a relegated request lost or gained tokens"


def check_engines_empty(world: World) -> None:
    """I3: an engine that has served all holds nothing."""
    for name in ENGINE_FIELDS:
        left = world.engines[name]
        assert not left.any(), f"I3: engines.{name} = {left} at the end"
    for name in ("queue_head", "queue_tail", "arrived_head", "join_head"):
        assert (world.engines[name] == -1).all(), f"I3: engines.{name} at the end"


def check_belief_empty(world: World) -> None:
    """I4: the router believes the same."""
    for name in BELIEF_FIELDS:
        left = world.fleet.instances[name]
        assert not left.any(), f"I4: fleet.instances.{name} = {left} at the end"


def check_groups(world: World) -> None:
    """I9, I10: each instance is in one group, at its rank, most loaded first."""
    fleet = world.fleet
    num_instances = len(fleet.instances)
    assert fleet.group_size.sum() == num_instances, "I9: group sizes do not sum to the fleet"
    seen = []
    for group, size in enumerate(fleet.group_size):
        members = fleet.order[group, :size]
        seen.extend(members.tolist())
        assert (fleet.instances["group"][members] == group).all(), "I9: order and group disagree"
        assert (fleet.instances["rank"][members] == np.arange(size)).all(), "I9: order and rank disagree"
        load = fleet.instances["committed_tokens"][members]
        assert (np.diff(load) <= 0).all(), f"I10: group {group} is not sorted by load: {load}"
    prefills = fleet.instances["group"] == len(fleet.tpots_s)
    decodes = fleet.instances["group"] < len(fleet.tpots_s)
    assert not (prefills & (fleet.instances["role"] == DECODE_ONLY)).any(), "I9: who only decodes prefills"
    assert not (decodes & (fleet.instances["role"] == PREFILL_ONLY)).any(), "I9: who only prefills decodes"
    assert sorted(seen) == list(range(num_instances)), "I9: an instance is in two groups or in none"


def check_pool_full(world: World) -> None:
    """I11: an elastic fleet without work owns nothing."""
    size = world.fleet.group_size
    assert size[-1] == len(world.fleet.instances), f"I11: group sizes at the end {size}"
