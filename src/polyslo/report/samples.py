"""A timeline cut down to as many points as a line of text or a figure can show.

Each quantity keeps what would be missed most: pending its peak, attainment its low, instances the
state at the end of the bucket.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from polyslo.sim.results import Timeline

Reduce = Callable[[Sequence[float]], float]


def last(values: Sequence[float]) -> float:
    """Take the state at the end of a bucket."""
    return values[-1]


def lowest(values: Sequence[float]) -> float:
    """Take the least of the values that are there; NaN when none is."""
    return min((v for v in values if not math.isnan(v)), default=math.nan)


def reduce_to(values: Sequence[float], num_buckets: int, reduce: Reduce) -> tuple[float, ...]:
    """Cut `values` into at most `num_buckets` buckets of nearly equal size and reduce each to one value."""
    count = min(num_buckets, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else []
    return tuple(reduce(values[a:b]) for a, b in pairwise(edges))


def decimate(timeline: Timeline, num_samples: int) -> Timeline:
    """Cut a timeline to at most `num_samples` samples; a shorter one is returned as it is."""
    if len(timeline.time_s) <= num_samples:
        return timeline

    def cut(values: Sequence[float], reduce: Reduce = last) -> tuple[float, ...]:
        return reduce_to(values, num_samples, reduce)

    def cut_counts(values: Sequence[int], reduce: Reduce = last) -> tuple[int, ...]:
        return tuple(int(v) for v in cut(values, reduce))

    kept = cut_counts(range(len(timeline.time_s)))
    return replace(
        timeline,
        time_s=cut(timeline.time_s),
        instances=tuple(cut_counts(tier) for tier in timeline.instances),
        idle=cut_counts(timeline.idle),
        prefill=cut_counts(timeline.prefill),
        pending=tuple(cut_counts(tier, max) for tier in timeline.pending),
        attainment=tuple(cut(tier, lowest) for tier in timeline.attainment),
        loads=tuple(timeline.loads[i] for i in kept),
    )


def busiest_sample(timeline: Timeline) -> int:
    """Find the first sample at which tiers own the most instances: where a load gradient shows most."""
    sizes = [len(pairs) for pairs in timeline.loads]
    return sizes.index(max(sizes))


def sample_at(timeline: Timeline, moment_s: float | None) -> int:
    """Find the sample nearest to a moment, or the busiest one when no moment is given."""
    if moment_s is None:
        return busiest_sample(timeline)
    return min(range(len(timeline.time_s)), key=lambda i: abs(timeline.time_s[i] - moment_s))
