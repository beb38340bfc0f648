"""Goodput by bisection: the highest rate at which a policy's attainment is at least a target, per seed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce

from polyslo.core.extent import Extent
from polyslo.sim.compare import Progress, check_target, compared, parse_policies, run_all, run_notes, sentences
from polyslo.sim.fleet import PolicySpec
from polyslo.sim.results import Comparison, GoodputResult
from polyslo.sim.setting import DEFAULT_DURATION_S, Setting
from polyslo.sim.statistics import confidence_interval
from polyslo.sim.warmup import warm_up

TOLERANCE_RATIO = 0.005  # of the fluid optimum
HIGHEST_RATIO = 2.0  # of the fluid optimum: where the search ends


def goodput(
    setting: Setting,
    *,
    policies: Sequence[str] = ("polyserve",),
    target: float = 0.99,
    seeds: int = 2,
    duration_s: float = DEFAULT_DURATION_S,
    progress: Progress | None = None,
) -> list[GoodputResult]:
    """Bisect for each policy and seed, to half a percent of the fluid optimum; with the interval over seeds."""
    check_target(target)
    specs = parse_policies(policies, seeds)
    warm_up()
    optimum = setting.optimum_rps()
    pairs = [(spec, seed) for spec in specs for seed in range(seeds)]
    found = run_all([partial(_bisect, setting, *pair, target, optimum, duration_s) for pair in pairs], progress)
    results = []
    for spec in specs:
        mine = [ended for (owner, _), ended in zip(pairs, found, strict=True) if owner is spec]
        rates = [rate for rate, _ in mine]
        extents = [extent for _, extent in mine if extent is not None]
        mean, low, high = confidence_interval(rates)
        is_lower_bound = max(rates) >= (HIGHEST_RATIO - TOLERANCE_RATIO) * optimum
        largest = reduce(Extent.joined, extents) if extents else None
        results.append(
            GoodputResult(spec.name, target, mean, low, high, tuple(rates), optimum, is_lower_bound, largest)
        )
    return results


def as_comparison(setting: Setting, results: Sequence[GoodputResult], duration_s: float) -> Comparison:
    """Put goodputs beside what they were found for: a comparison without runs, for `goodput_page`."""
    notes = [
        *run_notes(setting, setting.full_rps(), duration_s),
        f"Goodput is bisected in every seed, to {100 * TOLERANCE_RATIO:g}% of the fluid optimum; "
        "every policy sees the same requests.",
        *sentences(setting.extrapolations(result.largest for result in results)),
    ]
    if any(result.is_lower_bound for result in results):
        notes.append(
            f"≥: some seed still attained the target at {HIGHEST_RATIO:g}x the fluid optimum, where the search ends."
        )
    return compared(setting, [result.policy for result in results], results, notes)


def _bisect(
    setting: Setting, spec: PolicySpec, seed: int, target: float, optimum: float, duration_s: float
) -> tuple[float, Extent | None]:
    """Return the highest rate found that attains the target, and its largest iterations; 0 and None if none does."""
    low, high, largest = 0.0, HIGHEST_RATIO * optimum, None
    while high - low > TOLERANCE_RATIO * optimum:
        rate = (low + high) / 2
        (run,) = setting.run([spec], rate, seed, duration_s)
        if run.attainment >= target:
            low, largest = rate, run.largest
        else:
            high = rate
    return low, largest
