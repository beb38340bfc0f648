"""What the evaluation found, as plain values: a page is written from it, and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

from polyslo.claims.cases import OURS, RECORDED, families, family
from polyslo.claims.machine import Machine
from polyslo.claims.work import Misses
from polyslo.sim.results import GoodputResult


@dataclass(frozen=True, slots=True)
class Tried:
    """One value of a policy's parameters: goodput at each target, of one seed."""

    policy: str
    rates_rps: tuple[float, ...]
    seen: tuple[tuple[float, float], ...]  # (rate, attainment, below `work.LEAST_TOLD` a bound of it), rising


@dataclass(frozen=True, slots=True)
class Load:
    """What polyserve owns at a share of the fluid optimum."""

    share: float
    attainment: float
    mean_instances: float
    fluid_instances: float  # what the fluid optimum would use
    owners: tuple[float, ...]  # instances owned: one number a tier, then the prefill side's (0 in CO)
    owner_needs: tuple[float, ...]  # what the fluid optimum would use, likewise


@dataclass(frozen=True, slots=True)
class TierRow:
    """A policy's attainment by tier at one rate."""

    policy: str
    attainments: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Ablation:
    """Polyserve without one mechanism: goodput at each target, of the first seed, in short runs."""

    mechanism: str
    rates_rps: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CostWithout:
    """What polyserve owns without one mechanism at a share of the fluid optimum, first seed."""

    share: float
    mechanism: str | None  # None: with all of them
    attainment: float
    mean_instances: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload in one mode."""

    workload: str
    mode: str
    optimum_rps: float
    duration_s: float
    tpots_ms: tuple[float, ...]
    raised_ratio: float  # share of the requests whose drawn TTFT was out of reach even alone
    goodputs: tuple[GoodputResult, ...]  # polyserve, and the best variant of every baseline at each target
    tuned: tuple[Tried, ...]  # polyserve, and all variants of the baselines, first seed, short runs
    tried: tuple[Tried, ...]  # polyserve, and the variants that were chosen, first seed
    loads: tuple[Load, ...]
    tiers: tuple[TierRow, ...]  # at the rate that polyserve serves at the first target
    misses: Misses | None  # at `verdict.LEAST_SHARE` of the fluid optimum, where polyserve serves less
    ablations: tuple[Ablation, ...]
    costs: tuple[CostWithout, ...]  # at each share with all mechanisms, then without each; none of recorded arrivals

    @property
    def is_recorded(self) -> bool:
        """Tell whether arrivals are a trace's own."""
        return self.workload.endswith(RECORDED)

    @property
    def policies(self) -> tuple[str, ...]:
        """Return the names of policies without options, each once, in order."""
        return tuple(families([g.policy for g in self.goodputs]))

    def ours(self, target: float) -> GoodputResult:
        """Return polyserve's goodput."""
        return next(g for g in self.goodputs if g.target == target and g.policy == OURS)

    def best_baseline(self, target: float) -> GoodputResult:
        """Return the best goodput of all baselines with all their parameters."""
        others = [g for g in self.goodputs if g.target == target and g.policy != OURS]
        return max(others, key=lambda g: g.rate_rps)

    def ratio(self, target: float) -> float:
        """Return polyserve's goodput over the best baseline's; inf where only polyserve attains the target, 1 where
        nobody does.
        """
        ours, best = self.ours(target).rate_rps, self.best_baseline(target).rate_rps
        if best > 0:
            return ours / best
        return float("inf") if ours > 0 else 1.0

    def goodput(self, name: str, target: float) -> GoodputResult | None:
        """Return the goodput of a policy's best variant; None where it was not tried."""
        return next((g for g in self.goodputs if g.target == target and family(g.policy) == name), None)

    def is_within_noise(self, target: float) -> bool:
        """Tell whether the 95% intervals of polyserve and the best baseline overlap; one seed gives no interval."""
        ours, best = self.ours(target), self.best_baseline(target)
        if min(len(ours.per_seed_rps), len(best.per_seed_rps)) < 2:
            return False
        return ours.low_rps <= best.high_rps and best.low_rps <= ours.high_rps

    def noise_ratio(self, target: float) -> float:
        """Return half of the 95% interval of polyserve's goodput over the goodput; 0 with one seed."""
        ours = self.ours(target)
        return (ours.high_rps - ours.rate_rps) / ours.rate_rps if ours.rate_rps > 0 else math.inf

    def share(self, target: float) -> float:
        """Return polyserve's share of the fluid optimum."""
        return self.ours(target).rate_rps / self.optimum_rps


@dataclass(frozen=True, slots=True)
class Disturbed:
    """Goodput at each target under one disturbance, by policy."""

    topic: str
    level: str
    mode: str
    optimum_rps: float
    policies: tuple[str, ...]
    rates_rps: tuple[tuple[float, ...], ...]  # by policy, by target


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Polyserve with one cold start at `side_runs.COLD_START_SHARE` of the fluid optimum, first seed."""

    mode: str
    cold_start_s: float
    attainment: float
    mean_instances: float  # owned, or kept warm
    warm_instances: float  # of these: kept warm
    fluid_instances: float  # what the fluid optimum would use


@dataclass(frozen=True, slots=True)
class Claims:
    """The whole evaluation."""

    cells: tuple[Cell, ...]
    disturbed: tuple[Disturbed, ...]
    cold_starts: tuple[ColdStart, ...]
    targets: tuple[float, ...]
    seeds: tuple[int, ...]
    is_quick: bool
    num_unablated: int  # cells whose ablations were still to be run
    num_undisturbed: int  # levels of disturbances likewise
    profile: str
    num_instances: int
    date: str
    machines: tuple[Machine, ...]  # that computed it, over all sittings; empty where none was noted
    version: str
    took_s: float  # of sweeping, over all sittings
