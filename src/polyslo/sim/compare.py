"""Policies x rates x seeds on one workload: the same requests for every policy, all cores."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from typing import TypeVar

from polyslo.sim.fleet import PolicySpec
from polyslo.sim.results import Comparison, GoodputResult, RunResult
from polyslo.sim.setting import DEFAULT_DURATION_S, Setting
from polyslo.sim.statistics import confidence_interval
from polyslo.sim.warmup import warm_up

TARGETS = (0.99, 0.90)
OPTIMUM_SHARES = (0.5, 0.65, 0.8, 0.9, 0.95, 1.0, 1.1)  # of `Setting.full_rps`: the rates when none are asked for
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
    """Run every policy at every rate with every seed. Without rates: shares of the fluid optimum, 50 to 110%."""
    warm_up()
    specs = [PolicySpec.parse(text) for text in policies]
    optimum, full_rps = setting.optimum_rps(), setting.full_rps()
    rates = sorted(rates_rps) if rates_rps else [_rounded(share * full_rps) for share in OPTIMUM_SHARES]
    jobs = list(product(rates, range(seeds)))
    batches = run_all([partial(setting.run, specs, rate, seed, duration_s) for rate, seed in jobs], progress)
    runs = sorted((run for batch in batches for run in batch), key=lambda r: (r.policy, r.rate_rps, r.seed))
    goodputs = tuple(
        interpolated_goodput(runs, spec.name, target, rates, seeds, optimum) for spec in specs for target in TARGETS
    )
    return Comparison(
        workload=setting.name,
        profile=setting.named.name,
        mode=setting.config.mode,
        num_instances=setting.config.num_instances,
        tpots_ms=tuple(round(t * 1e3, 6) for t in setting.mix.tpots_s),
        rates_rps=tuple(rates),
        policies=tuple(spec.name for spec in specs),
        runs=tuple(runs),
        goodputs=goodputs,
        optimum_rps=optimum,
        notes=_notes(setting, runs, rates, duration_s),
    )


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


def interpolated_goodput(
    runs: Sequence[RunResult], policy: str, target: float, rates: Sequence[float], seeds: int, optimum: float
) -> GoodputResult:
    """Return where attainment first falls below the target, linear between the rates that were run."""
    per_seed = []
    for seed in range(seeds):
        mine = {r.rate_rps: r.attainment for r in runs if r.policy == policy and r.seed == seed}
        per_seed.append(_crossing(rates, [mine[rate] for rate in rates], target))
    mean, low, high = confidence_interval(per_seed)
    return GoodputResult(policy, target, mean, low, high, tuple(per_seed), optimum)


def _crossing(rates: Sequence[float], attainments: Sequence[float], target: float) -> float:
    if attainments[0] < target:
        return 0.0
    for k in range(1, len(rates)):
        if attainments[k] < target:
            share = (attainments[k - 1] - target) / (attainments[k - 1] - attainments[k])
            return rates[k - 1] + share * (rates[k] - rates[k - 1])
    return rates[-1]


def _rounded(rate: float) -> float:
    """Return a rate with three digits, so that tables read well."""
    digits = 2 - math.floor(math.log10(rate))
    return round(rate, digits)


def _notes(setting: Setting, runs: Sequence[RunResult], rates: Sequence[float], duration_s: float) -> tuple[str, ...]:
    notes = [
        *(f"{notice[0].upper()}{notice[1:]}." for notice in setting.notices(rates[-1], duration_s)),
        f"Arrivals: {setting.arrivals_text}.",
        f"Each run lasts {duration_s:g} s of arrivals; the first 20% and the last 10% are not scored.",
        "Goodput is interpolated between the rates that were run; `polyslo goodput` bisects.",
    ]
    raised = max((r.num_ttft_raised for r in runs), default=0)
    if raised:
        notes.append(
            f"Up to {raised:,} requests a run drew a TTFT that an idle instance could not meet; "
            "theirs was raised to twice the idle TTFT."
        )
    if any(r.attainment >= min(TARGETS) for r in runs if r.rate_rps == rates[-1]):
        notes.append("A policy that still attains a target at the highest rate has at least that goodput.")
    return tuple(notes)
