"""What the evaluation found, as plain values: a page is written from it, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from polyslo.sim.results import GoodputResult


@dataclass(frozen=True, slots=True)
class Tried:
    """One value of a policy's parameters: goodput at each target, of one seed."""

    policy: str
    rates_rps: tuple[float, ...]
    seen: tuple[tuple[float, float], ...]  # (rate, attainment), rising


@dataclass(frozen=True, slots=True)
class Load:
    """What polyserve owns at a share of the fluid optimum."""

    share: float
    attainment: float
    mean_instances: float
    fluid_instances: float  # what the fluid optimum would use


@dataclass(frozen=True, slots=True)
class TierRow:
    """A policy's attainment by tier at one rate."""

    policy: str
    attainments: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Ablation:
    """Polyserve without one mechanism: goodput at each target, of the first seed."""

    mechanism: str
    rates_rps: tuple[float, ...]


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
    tried: tuple[Tried, ...]  # polyserve, and all variants of the baselines, first seed
    loads: tuple[Load, ...]
    tiers: tuple[TierRow, ...]  # at the rate that polyserve serves at the first target
    ablations: tuple[Ablation, ...]

    def ours(self, target: float) -> GoodputResult:
        """Return polyserve's goodput."""
        return next(g for g in self.goodputs if g.target == target and g.policy == "polyserve")

    def best_baseline(self, target: float) -> GoodputResult:
        """Return the best goodput of all baselines with all their parameters."""
        others = [g for g in self.goodputs if g.target == target and g.policy != "polyserve"]
        return max(others, key=lambda g: g.rate_rps)

    def ratio(self, target: float) -> float:
        """Return polyserve's goodput over the best baseline's; inf where no baseline attains the target."""
        best = self.best_baseline(target).rate_rps
        return self.ours(target).rate_rps / best if best > 0 else float("inf")

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
class Claims:
    """The whole evaluation."""

    cells: tuple[Cell, ...]
    disturbed: tuple[Disturbed, ...]
    targets: tuple[float, ...]
    seeds: int
    is_quick: bool
    profile: str
    num_instances: int
    date: str
    machine: str
    version: str
    took_s: float  # of computing, over all sittings on this machine
