"""Runs averaged over their seeds: one point a policy and rate, the numbers that tables and figures share.

Attainment is the mean over seeds with the lowest and highest seed; cost is a ratio of sums (all
instance-seconds over all attained requests), so a seed that attained little does not dominate it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from polyslo.sim.results import Comparison, GoodputResult, RunResult

OURS = "polyserve"


@dataclass(frozen=True, slots=True)
class Point:
    """One policy at one rate, over all seeds. Cost is inf when no request attained its SLO."""

    rate_rps: float
    attainment: float
    lowest_attainment: float
    highest_attainment: float
    cost: float  # instance-seconds per 1,000 attained requests, see `RunResult`
    mean_instances: float  # owned or kept warm, averaged over the scored window
    tier_attainments: tuple[float, ...]  # by tier, tightest first; NaN where no request arrived


def is_ours(policy: str) -> bool:
    """Say whether a policy is polyserve or a variant of it, so that it is no baseline."""
    return policy.startswith(OURS)


def curve(comparison: Comparison, policy: str) -> tuple[Point, ...]:
    """Average the runs of a policy at each rate that it was run at, in order of rate."""
    by_rate: dict[float, list[RunResult]] = {}
    for run in comparison.runs_of(policy):
        by_rate.setdefault(run.rate_rps, []).append(run)
    return tuple(_point(rate, runs) for rate, runs in sorted(by_rate.items()))


def point_at(comparison: Comparison, policy: str, rate_rps: float) -> Point | None:
    """Average the runs of a policy at one rate; None when it was not run there."""
    runs = list(comparison.runs_of(policy, rate_rps))
    return _point(rate_rps, runs) if runs else None


def goodput_of(comparison: Comparison, policy: str, target: float) -> GoodputResult | None:
    """Find a policy's goodput at a target; None when it was not computed or the target never reached."""
    for goodput in comparison.goodputs:
        if goodput.policy == policy and math.isclose(goodput.target, target):
            return goodput if math.isfinite(goodput.rate_rps) and goodput.rate_rps > 0 else None
    return None


def targets_of(comparison: Comparison) -> tuple[float, ...]:
    """Attainment targets that goodputs were computed for, the strictest first."""
    return tuple(sorted({g.target for g in comparison.goodputs}, reverse=True))


def optimum_of(comparison: Comparison) -> float | None:
    """Fluid optimum of the comparison, from its own field or from any goodput that carries it."""
    known = (comparison.optimum_rps, *(g.optimum_rps for g in comparison.goodputs))
    return next((o for o in known if o is not None and math.isfinite(o) and o > 0), None)


def num_seeds(comparison: Comparison) -> int:
    """Count the seeds of a comparison, of its goodputs where it has no runs; with one there is no interval to give."""
    bisected = max((len(g.per_seed_rps) for g in comparison.goodputs), default=0)
    return len({run.seed for run in comparison.runs}) or bisected


def shared_rates(comparison: Comparison) -> list[float]:
    """List the rates that every policy was run at, lowest first; every rate when they share none."""
    by_policy = [{run.rate_rps for run in comparison.runs_of(policy)} for policy in comparison.policies]
    shared = set.intersection(*(rates for rates in by_policy if rates))
    return sorted(shared or {run.rate_rps for run in comparison.runs})


def telling_rate(comparison: Comparison) -> float:
    """Choose the measured rate at which policies differ most tellingly.

    It is the shared rate nearest to polyserve's goodput at the strictest target (else to the best goodput of
    any policy, else the middle rate): below it everybody attains, far above it nobody does.
    """
    rates = shared_rates(comparison)
    for target in targets_of(comparison):
        found = [g for p in comparison.policies if (g := goodput_of(comparison, p, target))]
        ours = [g for g in found if g.policy == OURS]
        if found:
            wanted = max(g.rate_rps for g in ours or found)
            return min(rates, key=lambda rate: abs(rate - wanted))
    return rates[len(rates) // 2]


def _point(rate_rps: float, runs: list[RunResult]) -> Point:
    shares = [run.attainment for run in runs]
    num_attained = sum(run.num_attained for run in runs)
    instance_s = sum(run.instance_seconds for run in runs)
    return Point(
        rate_rps=rate_rps,
        attainment=sum(shares) / len(shares),
        lowest_attainment=min(shares),
        highest_attainment=max(shares),
        cost=1000 * instance_s / num_attained if num_attained else math.inf,
        mean_instances=sum(run.instance_seconds / run.span_s for run in runs) / len(runs),
        tier_attainments=tuple(_tier_attainment(runs, k) for k in range(len(runs[0].tiers))),
    )


def _tier_attainment(runs: list[RunResult], tier: int) -> float:
    num_requests = sum(run.tiers[tier].num_requests for run in runs)
    num_attained = sum(run.tiers[tier].num_attained for run in runs)
    return num_attained / num_requests if num_requests else math.nan
