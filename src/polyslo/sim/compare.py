"""Policies x rates x seeds on one workload: the same requests for every policy, all cores."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise, product
from typing import TypeVar

from polyslo.errors import ConfigError
from polyslo.sim.fleet import PolicySpec
from polyslo.sim.results import Comparison, GoodputResult, RunResult
from polyslo.sim.setting import DEFAULT_DURATION_S, Setting
from polyslo.sim.statistics import confidence_interval
from polyslo.sim.warmup import warm_up

TARGETS = (0.99, 0.90)
SHARES = (0.5, 0.65, 0.8, 0.9, 0.95, 1.0, 1.1)  # of `Setting.full_rps`: the rates when none are asked for
FURTHER_SHARES = (1.25, 1.4, 1.6, 1.8, 2.0)  # and where a policy still attains the lowest target
DEFAULT_POLICIES = (
    "polyserve", "static-tiers", "slo-least-load", "lmetric", "chunk", "minimal", "round-robin", "random",
)  # fmt: skip

T = TypeVar("T")
Progress = Callable[[int, int], None]  # runs done, runs in all


def compare(
    setting: Setting,
    *,
    rates_rps: Sequence[float] | None = None,
    policies: Sequence[str] = DEFAULT_POLICIES,
    seeds: int = 2,
    duration_s: float = DEFAULT_DURATION_S,
    progress: Progress | None = None,
) -> Comparison:
    """Run every policy at every rate with every seed.

    Without rates they are `default_rates`, and further ones for the policies that still attain the lowest
    target at the highest: such policies have more runs than the others.
    """
    specs = parse_policies(policies, seeds)
    warm_up()
    rates = sorted(set(rates_rps or default_rates(setting)))
    runs = _run(setting, specs, rates, seeds, duration_s, progress)
    if not rates_rps:
        runs += _run_further(setting, specs, runs, seeds, duration_s, progress)
    runs.sort(key=lambda r: (r.policy, r.rate_rps, r.seed))
    optimum = setting.optimum_rps()
    goodputs = tuple(interpolated_goodput(runs, spec.name, target, optimum) for spec in specs for target in TARGETS)
    names = [spec.name for spec in specs]
    return compared(setting, names, goodputs, _notes(setting, runs, goodputs, rates[-1], duration_s), runs)


def compared(
    setting: Setting,
    policies: Iterable[str],
    goodputs: Iterable[GoodputResult],
    notes: Iterable[str],
    runs: Sequence[RunResult] = (),
) -> Comparison:
    """Put what was found beside the setting that it was found in."""
    return Comparison(
        workload=setting.name,
        profile=setting.named.name,
        mode=setting.config.mode,
        num_instances=setting.config.num_instances,
        tpots_ms=setting.tpots_ms,
        rates_rps=tuple(sorted({run.rate_rps for run in runs})),
        policies=tuple(policies),
        runs=tuple(runs),
        goodputs=tuple(goodputs),
        optimum_rps=setting.optimum_rps(),
        notes=tuple(notes),
    )


def default_rates(setting: Setting) -> list[float]:
    """Return the rates that are run when none are asked for: shares of what the fleet could carry."""
    return [_rounded(share * setting.full_rps()) for share in SHARES]


def _run(
    setting: Setting,
    specs: Sequence[PolicySpec],
    rates: Sequence[float],
    seeds: int,
    duration_s: float,
    progress: Progress | None,
) -> list[RunResult]:
    tasks = [partial(setting.run, specs, rate, seed, duration_s) for rate, seed in product(rates, range(seeds))]
    return [run for batch in run_all(tasks, progress) for run in batch]


def _run_further(
    setting: Setting,
    specs: Sequence[PolicySpec],
    runs: Sequence[RunResult],
    seeds: int,
    duration_s: float,
    progress: Progress | None,
) -> list[RunResult]:
    """Raise the rate for the policies of which a seed attains the lowest target, until none does."""
    found: list[RunResult] = []
    last = runs
    for share in FURTHER_SHARES:
        highest = max(run.rate_rps for run in last)
        able = {run.policy for run in last if run.rate_rps == highest and run.attainment >= min(TARGETS)}
        if not able:
            break
        going_on = [spec for spec in specs if spec.name in able]
        last = _run(setting, going_on, [_rounded(share * setting.full_rps())], seeds, duration_s, progress)
        found += last
    return found


def run_all(tasks: Iterable[Callable[[], T]], progress: Progress | None = None) -> list[T]:
    """Run tasks on all cores (compiled code holds no lock), in order, telling how many are done.

    When one fails, or the user interrupts, the rest is dropped without waiting for what runs.
    """
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        futures = [pool.submit(task) for task in tasks]
        results = []
        for done, future in enumerate(futures, start=1):
            results.append(future.result())
            if progress:
                progress(done, len(futures))
        return results
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def parse_policies(policies: Sequence[str], seeds: int) -> list[PolicySpec]:
    """Return the policies that are to run, each once; raises `ConfigError` for none, and for less than one seed."""
    if isinstance(policies, str) or not policies:
        raise ConfigError(f"policies: must be a list of at least one name, got {policies!r}; e.g. ['polyserve']")
    if not isinstance(seeds, int) or seeds < 1:
        raise ConfigError(f"seeds: must be a whole number >= 1, got {seeds!r}; 2 is usual")
    return [PolicySpec.parse(text) for text in dict.fromkeys(policies)]


def check_target(target: float) -> None:
    """Raise `ConfigError` unless an attainment can be held: above 0, at most 1."""
    if not 0.0 < target <= 1.0:
        raise ConfigError(f"--at: attainment must be above 0 and at most 1, got {target:g}; 0.99 is usual")


def run_notes(setting: Setting, rate_rps: float, duration_s: float) -> list[str]:
    """Tell what holds for every run: what was done to the workload, how requests arrive, what is scored."""
    return [
        *sentences(setting.notices(rate_rps, duration_s)),
        f"Arrivals: {setting.arrivals_text}.",
        f"Each run lasts {duration_s:g} s of arrivals; the first 20% and the last 10% are not scored.",
    ]


def sentences(notices: Iterable[str]) -> list[str]:
    """Return notices as the sentences of a page's notes."""
    return [f"{notice[0].upper()}{notice[1:]}." for notice in notices]


def interpolated_goodput(runs: Sequence[RunResult], policy: str, target: float, optimum: float) -> GoodputResult:
    """Return where attainment first falls below the target, linear between the rates that were run."""
    mine = sorted((r for r in runs if r.policy == policy), key=lambda r: r.rate_rps)
    by_seed = [[r for r in mine if r.seed == seed] for seed in sorted({r.seed for r in mine})]
    crossings = [_crossing(seed_runs, target) for seed_runs in by_seed]
    per_seed = [mine[-1].rate_rps if crossing is None else crossing for crossing in crossings]
    mean, low, high = confidence_interval(per_seed)
    return GoodputResult(policy, target, mean, low, high, tuple(per_seed), optimum, is_lower_bound=None in crossings)


def _crossing(runs: Sequence[RunResult], target: float) -> float | None:
    """Return the rate at which one seed falls below the target: 0 if it always is, None if it never does."""
    if runs[0].attainment < target:
        return 0.0
    for before, after in pairwise(runs):
        if after.attainment < target:
            share = (before.attainment - target) / (before.attainment - after.attainment)
            return before.rate_rps + share * (after.rate_rps - before.rate_rps)
    return None


def _rounded(rate: float) -> float:
    """Return a rate with three digits, so that tables read well."""
    digits = 2 - math.floor(math.log10(rate))
    return round(rate, digits)


def _notes(
    setting: Setting,
    runs: Sequence[RunResult],
    goodputs: Sequence[GoodputResult],
    highest_shared_rps: float,
    duration_s: float,
) -> list[str]:
    notes = [
        *run_notes(setting, highest_shared_rps, duration_s),
        "Goodput is interpolated between the rates that were run; polyslo goodput bisects.",
    ]
    notes += sentences(setting.extrapolations(run.largest for run in runs))
    raised = max((r.num_ttft_raised for r in runs), default=0)
    if raised:
        notes.append(
            f"Up to {raised:,} requests a run drew a TTFT that an idle instance could not meet; "
            "theirs was raised to twice the idle TTFT."
        )
    if any(run.rate_rps > highest_shared_rps for run in runs):
        notes.append(
            f"Rates above {highest_shared_rps:g} requests/s were run only for policies that still attained "
            f"{min(TARGETS):.2f} at the rate below."
        )
    if any(goodput.is_lower_bound for goodput in goodputs):
        notes.append("≥: the target was still attained at the highest rate that was run, so goodput is at least that.")
    return notes
