"""One simulated run: a workload, a fleet and a policy in, a `RunResult` out. Same seed, same bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from polyslo.core.extent import Extent
from polyslo.core.fluid import LengthMoments
from polyslo.core.profile import Profile
from polyslo.core.state import REASONS, RUNGS, Fleet
from polyslo.errors import ConfigError, InputError
from polyslo.policies.decide import send
from polyslo.sim.fleet import FleetConfig, PlaceFunction, PolicySpec, build_fleet
from polyslo.sim.loop import FINISHED, advance
from polyslo.sim.results import RunResult, TierResult, Timeline
from polyslo.sim.world import (
    ATTAINED,
    CLOCK,
    JOB,
    MISSED,
    REFUSED_OUT,
    RELEGATED_OUT,
    UNFINISHED,
    World,
    new_engines,
)
from polyslo.workload.workload import Workload

WARMUP_RATIO = 0.2  # of the span of arrivals, at its start: not scored
COOLDOWN_RATIO = 0.1
NOWHERE = -2  # where a policy's function did not answer with a number


def simulate(
    workload: Workload,
    profile: Profile,
    policy: PolicySpec,
    config: FleetConfig,
    *,
    seed: int = 0,
    num_samples: int = 0,
    profile_name: str = "",
    true_profile: Profile | None = None,
) -> RunResult:
    """Simulate one run. `num_samples` > 0 records a timeline.

    `true_profile` is what the engines obey where it differs from what the policy believes. Raises `InputError`
    for prompts that no instance can hold.
    """
    world = build_world(workload, profile, policy, config, seed=seed, num_samples=num_samples, truth=true_profile)
    run_world(world, policy.place)
    return summarize(world, workload, policy, config, seed=seed, profile_name=profile_name)


def run_world(world: World, place: PlaceFunction | None = None) -> None:
    """Run to the end, asking `place` where the policy is external."""
    while (r := advance(world.handle)) != FINISHED:
        assert place is not None
        chosen = place(world.fleet, r, float(world.clock["now_s"][0]))
        try:
            i = int(chosen)
        except (TypeError, ValueError):
            i = NOWHERE
        if not -1 <= i < len(world.engines):
            raise ConfigError(
                f"policy: request {r} was sent to instance {chosen!s:.40}, there are 0 to "
                f"{len(world.engines) - 1} (-1 refuses); correct the policy's function"
            )
        send(world.fleet.handle, r, i, float(world.clock["now_s"][0]))


def build_world(
    workload: Workload,
    profile: Profile,
    policy: PolicySpec,
    config: FleetConfig,
    *,
    seed: int = 0,
    num_samples: int = 0,
    truth: Profile | None = None,
) -> World:
    """Allocate a run: the belief, the engines, the jobs, an empty heap."""
    truth = truth or profile
    capacity = config.kv_capacity_tokens or profile.kv_capacity_tokens
    _reject_oversized(workload, capacity)
    tpots_s = np.asarray(workload.tpots_s, dtype=np.float64)
    shares = np.bincount(workload.tier, minlength=len(tpots_s)) / len(workload)
    moments = LengthMoments.of(workload.input_tokens, workload.output_tokens)
    fleet = build_fleet(config, policy, profile, tpots_s, shares, moments, len(workload))
    fleet.settings["random_state"] = 2 * seed + 1
    _fill_requests(fleet, workload, policy, config, capacity)
    engines = new_engines(config.num_instances, truth, config.max_residents, int(fleet.settings["chunk_limit"][0]))
    engines["kv_capacity_tokens"] = capacity
    engines["budget_s"] = fleet.instances["budget_s"]
    engines["prefill_only"] = fleet.instances["group"] == len(tpots_s)
    engines["slowness"][: config.num_stragglers] = config.slowness
    fleet.num_actions[0] = 0
    num_groups = len(tpots_s) + 1
    shape = (config.num_instances, config.max_residents)
    num_events = 2 * config.num_instances + (len(workload) if config.mode == "pd" else 0) + 64
    num_facts = max(1 << 16, 8 * config.num_instances) if config.telemetry_delay_s == 0 else 1 << 20
    return World(
        fleet=fleet,
        truth=truth,
        clock=_new_clock(workload, policy, config, fleet, seed, num_samples),
        engines=engines,
        jobs=_new_jobs(workload),
        arrivals_s=np.ascontiguousarray(workload.arrival_s, dtype=np.float64),
        slot=np.zeros(shape, dtype=np.int64),
        slot_finish=np.zeros(shape, dtype=np.int64),
        slot_due_s=np.zeros(shape),
        slot_tpot_s=np.zeros(shape),
        event_s=np.zeros(num_events),
        event_sequence=np.zeros(num_events, dtype=np.int64),
        event=np.zeros((num_events, 3), dtype=np.int64),
        fact_s=np.zeros((num_facts, 2)),
        fact=np.zeros((num_facts, 3), dtype=np.int64),
        owned_at_s=np.full((num_groups + 1, 2), -1.0),
        sample_s=np.zeros(num_samples),
        sample_groups=np.zeros((num_samples, num_groups + 1), dtype=np.int64),
        sample_pending=np.zeros((num_samples, num_groups - 1), dtype=np.int64),
        sample_group=np.zeros((num_samples, config.num_instances), dtype=np.int8),
        sample_load=np.zeros((num_samples, config.num_instances), dtype=np.float32),
    )


def _reject_oversized(workload: Workload, capacity: int) -> None:
    total = workload.input_tokens.astype(np.int64) + workload.output_tokens
    worst = int(np.argmax(total))
    if total[worst] > capacity:
        raise InputError(
            f"workload {workload.name!r}: request {worst} needs {workload.input_tokens[worst]} + "
            f"{workload.output_tokens[worst]} tokens of KV, an instance holds {capacity}; "
            "drop it, or choose a profile with more memory"
        )


def _fill_requests(fleet: Fleet, workload: Workload, policy: PolicySpec, config: FleetConfig, capacity: int) -> None:
    requests = fleet.requests
    requests["arrival_s"] = workload.arrival_s
    requests["first_due_s"] = workload.arrival_s + workload.ttft_s
    requests["tpot_s"] = workload.tpot_s
    requests["input_tokens"] = workload.input_tokens
    requests["max_tokens"] = capacity - workload.input_tokens
    requests["tier"] = 0 if "binning" in policy.without else workload.tier
    if config.lengths == "known":
        requests["expected_tokens"] = np.maximum(1, np.rint(config.known_ratio * workload.output_tokens))


def _new_jobs(workload: Workload) -> npt.NDArray[np.void]:
    jobs = np.zeros(len(workload), dtype=JOB)
    jobs["first_due_s"] = workload.arrival_s + workload.ttft_s
    jobs["tpot_s"] = workload.tpot_s
    for name in ("input_tokens", "prefill_tokens", "remaining_tokens"):
        jobs[name] = workload.input_tokens
    jobs["output_tokens"] = workload.output_tokens
    jobs["first_token_s"] = jobs["last_token_s"] = np.nan
    for name in ("instance", "next", "previous"):
        jobs[name] = -1
    return jobs


def _new_clock(
    workload: Workload, policy: PolicySpec, config: FleetConfig, fleet: Fleet, seed: int, num_samples: int
) -> npt.NDArray[np.void]:
    clock = np.zeros(1, dtype=CLOCK)
    start_s, end_s = float(workload.arrival_s[0]), float(workload.arrival_s[-1])
    clock["pause_s"] = np.inf
    clock["window_start_s"] = start_s + WARMUP_RATIO * (end_s - start_s)
    clock["window_end_s"] = end_s - COOLDOWN_RATIO * (end_s - start_s)
    clock["sample_every_s"] = (end_s - start_s) / max(1, num_samples - 1)
    clock["next_sample_s"] = start_s
    clock["noise_ratio"] = config.noise_ratio
    clock["delay_s"] = config.telemetry_delay_s
    clock["random_state"] = 7919 * (seed + 1)
    clock["policy"] = policy.kind.code
    clock["relegate"] = fleet.settings["relegate"] | fleet.settings["refuse"]
    clock["by_deadline"] = fleet.settings["by_deadline"]
    return clock


def summarize(
    world: World, workload: Workload, policy: PolicySpec, config: FleetConfig, *, seed: int, profile_name: str
) -> RunResult:
    """Score the requests that arrived inside the window."""
    clock, jobs, scored = world.clock[0], world.jobs, scored_requests(world, workload)
    start_s, end_s = float(clock["window_start_s"]), float(clock["window_end_s"])
    world.owned_at_s[world.owned_at_s < 0] = 0.0
    owned_s = world.owned_at_s[:, 1] - world.owned_at_s[:, 0]
    tiers = tuple(
        _score_tier(jobs[scored & (workload.tier == k)], workload.arrival_s[scored & (workload.tier == k)],
                    float(tpot_s), float(owned_s[k]))
        for k, tpot_s in enumerate(workload.tpots_s)
    )  # fmt: skip
    counters = world.fleet.counters
    return RunResult(
        policy=policy.name,
        mode=config.mode,
        profile=profile_name,
        workload=workload.name,
        rate_rps=workload.rate_rps,
        seed=seed,
        num_instances=config.num_instances,
        span_s=end_s - start_s,
        tiers=tiers,
        instance_seconds=float(owned_s.sum()),
        standby_seconds=float(owned_s[-1]),
        num_iterations=int(clock["num_iterations"]),
        num_preemptions=int(clock["num_preemptions"]),
        placements_by_rung={name: int(counters[0, k]) for k, name in enumerate(RUNGS) if counters[0, k]},
        refusals_by_reason={name: int(counters[1, k]) for k, name in enumerate(REASONS) if counters[1, k]},
        num_ttft_raised=workload.num_ttft_raised,
        notices=workload.notices,
        largest=_extent(clock),
        timeline=_timeline(world, workload) if len(world.sample_s) else None,
    )


def _extent(clock: npt.NDArray[np.void]) -> Extent:
    names = ("most_decodes", "most_kv_tokens", "most_chunk_tokens", "most_context_tokens")
    return Extent(*(int(clock[name]) for name in names))


def scored_requests(world: World, workload: Workload) -> npt.NDArray[np.bool_]:
    """Tell of each request whether it arrived inside the window, shape (n,)."""
    start_s, end_s = (float(world.clock[name][0]) for name in ("window_start_s", "window_end_s"))
    return np.asarray((workload.arrival_s >= start_s) & (workload.arrival_s <= end_s))


def _score_tier(
    jobs: npt.NDArray[np.void], arrival_s: npt.NDArray[np.float64], tpot_s: float, owned_s: float
) -> TierResult:
    outcome = jobs["outcome"]
    served = (outcome == ATTAINED) | (outcome == MISSED)
    ttft_s = (jobs["first_token_s"] - arrival_s)[served]
    several = (jobs["output_tokens"] > 1) & served
    spent_s = (jobs["last_token_s"] - jobs["first_token_s"])[several]
    paces_s = spent_s / (jobs["output_tokens"][several] - 1)
    return TierResult(
        tpot_ms=round(tpot_s * 1e3, 6),
        num_requests=len(jobs),
        num_attained=int((outcome == ATTAINED).sum()),
        num_missed=int(((outcome == MISSED) | (outcome == UNFINISHED)).sum()),
        num_relegated=int((outcome == RELEGATED_OUT).sum()),
        num_refused=int((outcome == REFUSED_OUT).sum()),
        num_served_late=int(((outcome == RELEGATED_OUT) & (jobs["last_token_s"] > 0)).sum()),
        ttft_p50_s=_quantile(ttft_s, 0.5),
        ttft_p99_s=_quantile(ttft_s, 0.99),
        tpot_p50_s=_quantile(paces_s, 0.5),
        tpot_p99_s=_quantile(paces_s, 0.99),
        instance_seconds=owned_s,
    )


def _quantile(values: npt.NDArray[np.float64], q: float) -> float:
    return float(np.quantile(values, q)) if len(values) else float("nan")


def _timeline(world: World, workload: Workload) -> Timeline:
    count = int(world.clock["num_samples"][0])
    time_s, groups = world.sample_s[:count], world.sample_groups[:count]
    num_tiers = len(workload.tpots_s)
    bins = np.searchsorted(time_s, workload.arrival_s, side="left")
    attained = world.jobs["outcome"] == ATTAINED
    attainment = []
    for k in range(num_tiers):
        mine = workload.tier == k
        arrived = np.bincount(bins[mine], minlength=count + 1)[:count]
        good = np.bincount(bins[mine & attained], minlength=count + 1)[:count]
        attainment.append(tuple(np.where(arrived > 0, good / np.maximum(arrived, 1), np.nan).tolist()))
    loads = []
    for owner, load in zip(world.sample_group[:count], world.sample_load[:count], strict=True):
        members = [(int(g), round(float(x), 4)) for g, x in zip(owner, load, strict=True) if g < num_tiers]
        loads.append(tuple(sorted(members, key=lambda pair: (pair[0], -pair[1]))))
    return Timeline(
        time_s=tuple(time_s.tolist()),
        instances=tuple(tuple(groups[:, k].tolist()) for k in range(num_tiers)),
        idle=tuple(groups[:, num_tiers + 1].tolist()),
        prefill=tuple(groups[:, num_tiers].tolist()),
        pending=tuple(tuple(world.sample_pending[:count, k].tolist()) for k in range(num_tiers)),
        attainment=tuple(attainment),
        loads=tuple(loads),
    )
