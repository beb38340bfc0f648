"""Goodput by bisection: the highest rate at which a policy's attainment is at least a target, per seed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from polyslo.errors import ConfigError
from polyslo.sim.compare import Progress, run_all
from polyslo.sim.fleet import PolicySpec
from polyslo.sim.results import GoodputResult, RunResult
from polyslo.sim.run import simulate
from polyslo.sim.setting import DEFAULT_DURATION_S, Setting
from polyslo.sim.statistics import confidence_interval
from polyslo.sim.warmup import warm_up

TOLERANCE_RATIO = 0.005  # of the fluid optimum
HIGHEST_RATIO = 1.6  # of the fluid optimum: no policy gets there


def goodput(
    setting: Setting,
    *,
    policies: Sequence[str] = ("polyserve",),
    target: float = 0.99,
    seeds: int = 3,
    duration_s: float = DEFAULT_DURATION_S,
    progress: Progress | None = None,
) -> list[GoodputResult]:
    """Bisect for each policy and seed, to half a percent of the fluid optimum; with the interval over seeds."""
    if not 0.0 < target <= 1.0:
        raise ConfigError(f"target attainment must be in (0, 1], got {target:g}; 0.99 is usual")
    warm_up()
    specs = [PolicySpec.parse(text) for text in policies]
    optimum = setting.optimum_rps()
    pairs = [(spec, seed) for spec in specs for seed in range(seeds)]
    tasks = [partial(_bisect, setting, spec, seed, target, optimum, duration_s) for spec, seed in pairs]
    last_runs = run_all(tasks, progress)
    results = []
    for spec in specs:
        rates = [
            runs[0].rate_rps if runs else 0.0
            for (owner, _), runs in zip(pairs, last_runs, strict=True)
            if owner is spec
        ]
        mean, low, high = confidence_interval(rates)
        results.append(GoodputResult(spec.name, target, mean, low, high, tuple(rates), optimum))
    return results


def _bisect(
    setting: Setting, spec: PolicySpec, seed: int, target: float, optimum: float, duration_s: float
) -> list[RunResult]:
    """Return the run at the highest rate found that attains the target; none if no rate does."""
    low, high, best = 0.0, HIGHEST_RATIO * optimum, None
    while high - low > TOLERANCE_RATIO * optimum:
        rate = (low + high) / 2
        workload = setting.workload(rate, seed, duration_s=duration_s)
        run = simulate(workload, setting.named.profile, spec, setting.config, seed=seed)
        if run.attainment >= target:
            low, best = rate, run
        else:
            high = rate
    return [best] if best else []
