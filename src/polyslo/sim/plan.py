"""How many instances does this workload need, and how many of them does each tier own?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from polyslo.errors import InputError
from polyslo.sim.compare import Progress, check_target, parse_policies, run_all
from polyslo.sim.fleet import MAX_INSTANCES, PolicySpec
from polyslo.sim.results import RunResult
from polyslo.sim.setting import DEFAULT_DURATION_S, Setting
from polyslo.sim.warmup import warm_up


@dataclass(frozen=True, slots=True)
class PlanResult:
    """The smallest fleet with which a policy attains the target in every seed."""

    policy: str
    target: float
    rate_rps: float
    num_instances: int
    fluid_instances: float  # what the fluid optimum needs, not whole
    runs: tuple[RunResult, ...]  # at that size, one a seed
    has_tiers: bool = True  # False: every instance serves all tiers, and no tier owns any

    @property
    def attainment(self) -> float:
        """Attainment of the seed that fares worst."""
        return min(r.attainment for r in self.runs)

    def mean_instances(self, tier: int) -> float:
        """Return the instances that a tier owned on average."""
        return sum(r.tiers[tier].instance_seconds / r.span_s for r in self.runs) / len(self.runs)

    def mean_prefill_instances(self) -> float:
        """Return the prefill instances owned on average; 0 when co-located."""
        return max(0.0, sum(r.prefill_seconds / r.span_s for r in self.runs) / len(self.runs))

    def mean_idle_instances(self) -> float:
        """Return the instances that neither a tier nor prefill owned, on average; some may have been kept warm."""
        return max(0.0, self.num_instances - self._mean_working_instances())

    def _mean_working_instances(self) -> float:
        return sum((r.instance_seconds - r.standby_seconds) / r.span_s for r in self.runs) / len(self.runs)

    def tier_attainment(self, tier: int) -> float:
        """Return a tier's attainment over all seeds; NaN when none of its requests arrived."""
        arrived = sum(r.tiers[tier].num_requests for r in self.runs)
        return sum(r.tiers[tier].num_attained for r in self.runs) / arrived if arrived else float("nan")

    def tier_cost(self, tier: int) -> float:
        """Return a tier's own instance-seconds per 1,000 of its requests that attained (inf when none did).

        Promotion moves some: guests run on a tighter tier's instances.
        """
        attained = sum(r.tiers[tier].num_attained for r in self.runs)
        owned_s = sum(r.tiers[tier].instance_seconds for r in self.runs)
        return 1000 * owned_s / attained if attained else float("inf")

    def cost(self) -> float:
        """Return instance-seconds per 1,000 attained requests (inf when none attained)."""
        attained = sum(r.num_attained for r in self.runs)
        return 1000 * sum(r.instance_seconds for r in self.runs) / attained if attained else float("inf")


def plan(
    setting: Setting,
    *,
    rate_rps: float,
    policies: Sequence[str] = ("polyserve", "chunk"),
    target: float = 0.99,
    seeds: int = 2,
    duration_s: float = DEFAULT_DURATION_S,
    progress: Progress | None = None,
) -> list[PlanResult]:
    """Search the smallest fleet for each policy: double from the fluid need, then bisect."""
    check_target(target)
    specs = parse_policies(policies, seeds)
    warm_up()
    results = []
    for done, spec in enumerate(specs, start=1):
        results.append(_smallest(setting, spec, rate_rps, target, seeds, duration_s))
        if progress:
            progress(done, len(specs))
    return results


def _smallest(
    setting: Setting, spec: PolicySpec, rate_rps: float, target: float, seeds: int, duration_s: float
) -> PlanResult:
    need = setting.fluid_need(rate_rps)
    least = 2 if setting.config.mode == "pd" else 1
    low, high = least - 1, max(least, int(need) + 1)
    runs = _runs_with(setting, spec, high, rate_rps, seeds, duration_s)
    while min(r.attainment for r in runs) < target:
        if high >= MAX_INSTANCES:
            raise InputError(
                f"plan: {spec.name} does not attain {target:g} with {high} instances at {rate_rps:g} requests/s; "
                "lower the target or loosen the SLOs"
            )
        low, high = high, min(MAX_INSTANCES, high + max(1, high // 4))
        runs = _runs_with(setting, spec, high, rate_rps, seeds, duration_s)
    while high - low > 1:
        middle = (low + high) // 2
        tried = _runs_with(setting, spec, middle, rate_rps, seeds, duration_s)
        if min(r.attainment for r in tried) >= target:
            high, runs = middle, tried
        else:
            low = middle
    return PlanResult(spec.name, target, rate_rps, high, need, tuple(runs), spec.kind.tiers)


def _runs_with(
    setting: Setting, spec: PolicySpec, instances: int, rate_rps: float, seeds: int, duration_s: float
) -> list[RunResult]:
    sized = setting.with_instances(instances)
    batches = run_all(partial(sized.run, [spec], rate_rps, seed, duration_s) for seed in range(seeds))
    return [run for batch in batches for run in batch]
