"""What must hold at the end of every simulated run; the numbers are those of docs/invariants.md."""

from __future__ import annotations

import numpy as np

from polyslo.sim.loop import FINISHED, advance
from polyslo.sim.run import build_world
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


def run_checked(workload, profile, policy, config, *, seed=0, truth=None, exact=True) -> World:
    """Run to the end and check every invariant on the way out; `exact` asks belief to equal the truth."""
    world = build_world(workload, profile, policy, config, seed=seed, truth=truth)
    before_s = -np.inf
    while (r := advance(world.handle)) != FINISHED:
        from polyslo.policies.decide import send

        now_s = float(world.clock["now_s"][0])
        assert now_s >= before_s, f"I8: the clock ran back from {before_s} to {now_s}"
        before_s = now_s
        send(world.fleet.handle, r, int(policy.place(world.fleet, r, now_s)), now_s)
    check_run(world, workload, elastic=policy.kind.elastic, exact=exact)
    return world


def check_run(world: World, workload, *, elastic: bool = False, exact: bool = True) -> None:
    """Check I1 to I11 on a run that has ended. `exact` asks the belief to be empty as well."""
    check_outcomes(world, workload)
    check_times(world, workload)
    check_engines_empty(world)
    check_groups(world)
    assert world.clock["cursor"][0] == len(workload), "I1: arrivals were left over"
    assert world.clock["num_events"][0] == 0, "I8: events were left over"
    assert world.clock["fact_head"][0] == world.clock["fact_tail"][0], "I8: facts were left over"
    assert not world.fleet.pending_size[:-1].any(), f"I5: pending at the end: {world.fleet.pending_size}"
    if exact:
        check_belief_empty(world)
    if elastic:
        check_pool_full(world)
        if world.fleet.settings["cold_start_s"][0] == 0:
            check_relegated_served(world)


def check_outcomes(world: World, workload) -> None:
    """I1, I2: every arrival ends exactly once, and says how."""
    outcome = world.jobs["outcome"]
    assert len(outcome) == len(workload)
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


def check_times(world: World, workload) -> None:
    """I6, I7: tokens come after arrival, in order, and the outcome agrees with the first token's deadline."""
    jobs = world.jobs
    served = np.isin(jobs["outcome"], (ATTAINED, MISSED))
    first_s, last_s = jobs["first_token_s"][served], jobs["last_token_s"][served]
    assert np.isfinite(first_s).all()
    assert np.isfinite(last_s).all()
    assert (first_s > workload.arrival_s[served]).all(), "I6: a first token before its arrival"
    assert (last_s >= first_s).all(), "I6: a last token before the first"
    several = jobs["output_tokens"][served] > 1
    assert (last_s[several] > first_s[several]).all(), "I6: two tokens at once"
    good = jobs["outcome"] == ATTAINED
    due_s = workload.arrival_s[good] + workload.ttft_s[good]
    assert (jobs["first_token_s"][good] <= due_s + 1e-6).all(), "I7: attained with a late first token"
    last_due_s = due_s + (jobs["output_tokens"][good] - 1) * workload.tpot_s[good]
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
    for name in ("queue_head", "queue_tail", "join_head"):
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
    assert sorted(seen) == list(range(num_instances)), "I9: an instance is in two groups or in none"


def check_pool_full(world: World) -> None:
    """I11: an elastic fleet without work owns nothing."""
    size = world.fleet.group_size
    assert size[-1] == len(world.fleet.instances), f"I11: group sizes at the end {size}"
