"""Synthetic results with the shape of a real one: four tiers, several policies, rates and seeds."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from polyslo.sim.plan import PlanResult
from polyslo.sim.results import Comparison, GoodputResult, RunResult, TierResult, Timeline

TPOTS_MS = (20.0, 30.0, 50.0, 100.0)
SHARES = (0.1, 0.2, 0.3, 0.4)
RATES_RPS = (150.0, 225.0, 300.0, 350.0, 400.0, 450.0)
SEEDS = (1, 2, 3)
GOODPUTS_RPS = {
    "polyserve": 402.0,
    "polyserve-keep": 371.0,
    "chunk": 352.0,
    "minimal": 318.0,
    "random": 262.0,
}
OPTIMUM_RPS = 427.0
NUM_INSTANCES = 20
SPAN_S = 240.0


def plausible_comparison(
    goodputs_rps: dict[str, float] | None = None, *, with_timeline: bool = True, spread_rps: float = 4.0
) -> Comparison:
    """Build a comparison in which each policy's attainment falls off at its goodput."""
    goodputs_rps = GOODPUTS_RPS if goodputs_rps is None else goodputs_rps
    runs = [
        plausible_run(policy, rate, seed, knee, with_timeline=with_timeline and policy == "polyserve" and seed == 1)
        for policy, knee in goodputs_rps.items()
        for rate in RATES_RPS
        for seed in SEEDS
    ]
    goodputs = [
        _goodput(policy, target, knee * factor, spread_rps)
        for target, factor in ((0.99, 1.0), (0.90, 1.1))
        for policy, knee in goodputs_rps.items()
    ]
    return Comparison(
        workload="azure-conversation",
        profile="llama-3.1-8b-h200",
        mode="co",
        num_instances=NUM_INSTANCES,
        tpots_ms=TPOTS_MS,
        rates_rps=RATES_RPS,
        policies=tuple(goodputs_rps),
        runs=tuple(runs),
        goodputs=tuple(goodputs),
        optimum_rps=OPTIMUM_RPS,
        notes=("Relegation is on for every policy.", "The chunk of 'chunk' was tuned to 512 tokens."),
    )


def plausible_goodputs(goodputs_rps: dict[str, float] | None = None) -> Comparison:
    """Build what `polyslo goodput` reports: one target, and no runs."""
    comparison = plausible_comparison(goodputs_rps, with_timeline=False)
    strict = tuple(g for g in comparison.goodputs if g.target == 0.99)
    return replace(comparison, runs=(), rates_rps=(), goodputs=strict)


def plausible_plan(sizes: dict[str, int] | None = None, *, mode: str = "co", num_seeds: int = 2) -> list[PlanResult]:
    """Build fleets of which tiers own nine tenths; chunk has no tiers."""
    sizes = {"polyserve": 20, "static-tiers": 23, "chunk": 22} if sizes is None else sizes
    return [
        PlanResult(
            policy=policy,
            target=0.99,
            rate_rps=350.0,
            num_instances=size,
            fluid_instances=16.4,
            runs=tuple(_planned_run(policy, size, seed, mode) for seed in range(num_seeds)),
            has_tiers=policy != "chunk",
        )
        for policy, size in sizes.items()
    ]


def _planned_run(policy: str, size: int, seed: int, mode: str) -> RunResult:
    run = plausible_run(policy, seed=seed, with_timeline=False)
    tiers = tuple(
        replace(t, instance_seconds=0.9 * size * SPAN_S * share) for t, share in zip(run.tiers, SHARES, strict=True)
    )
    prefill_s = 0.05 * size * SPAN_S if mode == "pd" else 0.0
    owned_s = sum(t.instance_seconds for t in tiers) + prefill_s
    return replace(run, mode=mode, num_instances=size, tiers=tiers, instance_seconds=owned_s)


def plausible_run(
    policy: str = "polyserve",
    rate_rps: float = 350.0,
    seed: int = 1,
    knee_rps: float = 402.0,
    *,
    with_timeline: bool = True,
) -> RunResult:
    """Build one run whose tighter tiers fail first once the rate passes `knee_rps`."""
    draw = random.Random(f"{policy} {rate_rps} {seed}")
    tiers = tuple(_tier(draw, k, policy, rate_rps, knee_rps) for k in range(len(TPOTS_MS)))
    idle_s = NUM_INSTANCES * SPAN_S * max(0.0, 1 - rate_rps / 430) if policy.startswith("polyserve") else 0.0
    return RunResult(
        policy=policy,
        mode="co",
        profile="llama-3.1-8b-h200",
        workload="azure-conversation",
        rate_rps=rate_rps,
        seed=seed,
        num_instances=NUM_INSTANCES,
        span_s=SPAN_S,
        tiers=tiers,
        instance_seconds=NUM_INSTANCES * SPAN_S - idle_s,
        num_iterations=draw.randrange(150_000, 190_000),
        num_preemptions=draw.randrange(3),
        placements_by_rung={"own tier": 9_000, "promotion": 410, "scale up": 37, "pending": 122},
        refusals_by_reason={"first_token": 2_104, "second_token": 377, "steady_state": 1_288, "memory": 951},
        num_ttft_raised=draw.randrange(10, 40),
        timeline=plausible_timeline(draw) if with_timeline else None,
    )


def plausible_timeline(draw: random.Random, num_samples: int = 480) -> Timeline:
    """Build a day-like swing: tiers breathe out of phase and the idle pool takes the rest."""
    sizes = [
        [1 + round(share * 17 * (0.72 + 0.28 * math.sin(i / 60 + 1.3 * k))) for i in range(num_samples)]
        for k, share in enumerate(SHARES)
    ]
    idle = [NUM_INSTANCES - sum(tier[i] for tier in sizes) for i in range(num_samples)]
    pending = [[max(0, round(draw.gauss(-3 + 2 * k, 3))) for _ in range(num_samples)] for k in range(4)]
    shares = [[min(1.0, draw.gauss(1.0, 0.02)) for _ in range(num_samples)] for _ in range(4)]
    shares[0][:20] = [math.nan] * 20
    loads = [
        tuple((k, round(0.98 - 0.75 * j / sizes[k][i], 3)) for k in range(4) for j in range(sizes[k][i]))
        for i in range(num_samples)
    ]
    return Timeline(
        time_s=tuple(0.5 * i for i in range(num_samples)),
        instances=tuple(tuple(tier) for tier in sizes),
        idle=tuple(idle),
        prefill=(0,) * num_samples,
        pending=tuple(tuple(tier) for tier in pending),
        attainment=tuple(tuple(tier) for tier in shares),
        loads=tuple(loads),
    )


def with_goodput(comparison: Comparison, policy: str, target: float, *per_seed_rps: float) -> Comparison:
    """Replace one goodput, its mean and interval following from the seeds; no seeds: never reached."""
    rate = sum(per_seed_rps) / len(per_seed_rps) if per_seed_rps else 0.0
    low, high = (min(per_seed_rps), max(per_seed_rps)) if per_seed_rps else (0.0, 0.0)
    new = GoodputResult(policy, target, rate, low, high, per_seed_rps, OPTIMUM_RPS)
    kept = [g for g in comparison.goodputs if (g.policy, g.target) != (policy, target)]
    return replace(comparison, goodputs=(*kept, new))


def _goodput(policy: str, target: float, rate_rps: float, spread_rps: float) -> GoodputResult:
    per_seed = (rate_rps - spread_rps, rate_rps, rate_rps + spread_rps)
    width = 2.5 * spread_rps
    return GoodputResult(policy, target, rate_rps, rate_rps - width, rate_rps + width, per_seed, OPTIMUM_RPS)


def _tier(draw: random.Random, k: int, policy: str, rate_rps: float, knee_rps: float) -> TierResult:
    tpot_s = TPOTS_MS[k] / 1000
    num_requests = round(rate_rps * SPAN_S * SHARES[k] * draw.uniform(0.98, 1.02))
    strain = max(0.0, rate_rps / knee_rps - 0.97) * (1.6 - 0.3 * k)
    noise = abs(draw.gauss(0, 0.002 + 0.03 * strain))
    share = 0.9985 - 0.9 * strain - 1.2 * strain**2 - noise
    num_attained = round(num_requests * max(0.0, min(1.0, share)))
    num_relegated = round((num_requests - num_attained) * 0.7)
    return TierResult(
        tpot_ms=TPOTS_MS[k],
        num_requests=num_requests,
        num_attained=num_attained,
        num_missed=num_requests - num_attained - num_relegated,
        num_relegated=num_relegated,
        num_refused=0,
        num_served_late=num_relegated // 2,
        ttft_p50_s=0.12 * draw.uniform(0.9, 1.1),
        ttft_p99_s=0.41 * draw.uniform(0.9, 1.1),
        tpot_p50_s=tpot_s * (0.7 if policy == "polyserve" else 0.5),
        tpot_p99_s=tpot_s * 0.99,
        instance_seconds=NUM_INSTANCES * SPAN_S * SHARES[k] * 0.9,
    )
