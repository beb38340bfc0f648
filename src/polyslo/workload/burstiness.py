"""How unevenly requests arrive, over all time scales at once.

Real traffic is uneven from milliseconds (a tool sends ten requests) to an hour (people go to lunch), and
no renewal process has both. Ours takes the order of busy and quiet moments from a cascade, and the exact
sizes of the gaps from the trace:

1. cascade: the requests of an interval are divided between its halves with a random share, and again in
   each half, down to a fraction of the mean gap. Its numbers are the variances of that share at each scale
   (the multifractal wavelet model of network traffic: Riedi, Crouse, Ribeiro, Baraniuk, IEEE Trans.
   Information Theory 1999; Beta shares and whole requests are ours);
2. gaps: the k-th longest gap of the cascade becomes the k-th longest of the trace's gap distribution, so
   the CV and the share of silent seconds are the trace's, and long gaps stay where the cascade put them;
3. on/off traffic comes out too clumped (a Beta share is no on/off switch), so the order is loosened by a
   weight, fitted to the variance of counts: 1 is the cascade's order, 0 any order.

Scales are in mean gaps, not seconds: at another rate the clock is stretched, as `Trace.at_rate` does.
Sessions, and any tie between lengths and arrivals, are not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from polyslo.errors import InputError, TraceError
from polyslo.workload.normal import score_of

MIN_ARRIVALS = 64
MIN_TOP_INTERVALS = 16  # the longest scale is one that a trace shows at least this often
FINEST_GAPS = 2**-7  # intervals shorter than this share of the mean gap are taken as uniform
NOISE_DEVIATIONS = 2.0  # a spread within this many standard deviations of none is taken as none
WEIGHTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.25, 0.0)
FIT_WIDTHS_GAPS = (2, 8, 32, 128)  # scales at which the weight is fitted
MIN_SPREAD = 1e-6  # a smaller variance is none: the Beta draw would be 1/2 to the last digit
MAX_SPREAD = 0.999

# Where the gap distribution is kept: dense in the upper tail, which makes the CV.
_TAIL = (0.985, 0.99, 0.993, 0.995, 0.997, 0.998, 0.999, 0.9993, 0.9995, 0.9997, 0.9998, 0.9999, 1.0)
_BODY = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98)
GAP_PROBABILITIES = (*_BODY, *_TAIL)


@dataclass(frozen=True, slots=True)
class Burstiness:
    """A cascade and a gap distribution, both in units of the mean gap.

    `top_gaps` is the longest interval of the cascade; `top_spread` the squared coefficient of variation of
    the rate between such intervals, >= 0. `split_spreads[i]`, in [0, 1), is E[(left - right)²] of the rate
    shares when an interval of `top_gaps / 2^i` is halved: 0 is even (Poisson), 1 is all on one side.
    `cascade_weight`, in [0, 1], is how far the gaps keep the cascade's order (the correlation of their normal
    scores). `gap_quantiles` are the gaps at `GAP_PROBABILITIES`, ascending.
    """

    top_gaps: int
    top_spread: float
    split_spreads: tuple[float, ...]
    cascade_weight: float
    gap_quantiles: tuple[float, ...]

    def __post_init__(self) -> None:
        gaps = np.asarray(self.gap_quantiles)
        if self.top_gaps < 1 or not 0 <= self.top_spread < np.inf:
            raise InputError("burstiness: top_gaps must be >= 1 and top_spread >= 0")
        if not all(0 <= spread < 1 for spread in self.split_spreads):
            raise InputError("burstiness: split_spreads must be >= 0 and below 1")
        if not 0 <= self.cascade_weight <= 1:
            raise InputError("burstiness: cascade_weight must be from 0 to 1")
        if len(gaps) != len(GAP_PROBABILITIES) or not (np.diff(gaps) >= 0).all() or not gaps[0] >= 0:
            raise InputError(f"burstiness: needs {len(GAP_PROBABILITIES)} ascending gap_quantiles >= 0")

    @classmethod
    def fit(cls, arrival_s: NDArray[np.float64]) -> Self:
        """Measure ascending `arrival_s`; raises `TraceError` below 64 arrivals or without any span."""
        if len(arrival_s) < MIN_ARRIVALS or not arrival_s[-1] > arrival_s[0]:
            raise TraceError(
                f"burstiness: needs {MIN_ARRIVALS} arrivals or more over a positive span, "
                f"got {len(arrival_s)}; fit without arrivals, or a longer trace"
            )
        gaps = (arrival_s - arrival_s[0]) * ((len(arrival_s) - 1) / (arrival_s[-1] - arrival_s[0]))
        top_gaps = 2 ** int(np.log2(len(gaps) / MIN_TOP_INTERVALS))
        counts = np.bincount((gaps / top_gaps).astype(np.int64))[: len(gaps) // top_gaps]
        top_spread = max(0.0, float((counts.var(ddof=1) - counts.mean()) / counts.mean() ** 2))
        spreads = []
        width = float(top_gaps)
        while width > FINEST_GAPS:
            width /= 2
            spreads.append(_split_spread(gaps, width))
        quantiles = np.quantile(np.diff(gaps), GAP_PROBABILITIES)
        cascade = cls(
            top_gaps,
            round(top_spread, 5),
            tuple(round(spread, 5) for spread in spreads),
            1.0,
            tuple(float(f"{gap:.4g}") for gap in quantiles),
        )
        return min(
            (replace(cascade, cascade_weight=weight) for weight in WEIGHTS),
            key=lambda candidate: candidate._misfit(gaps),
        )

    def draw(self, num_requests: int, rate_rps: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `num_requests` ascending times in seconds, from 0, whose mean rate is exactly `rate_rps`."""
        num_intervals = -(-num_requests // self.top_gaps) + 1
        while True:
            gaps = self._draw_gaps(num_intervals, rng)
            first = int(np.searchsorted(gaps, rng.uniform(0, self.top_gaps)))  # not aligned to the cascade
            if len(gaps) - first >= num_requests:
                break
            num_intervals *= 2
        sizes = self._resized(np.diff(gaps[first : first + num_requests]), rng)
        span_s = (num_requests - 1) / rate_rps
        ends = np.concatenate(([0.0], np.cumsum(sizes)))
        return ends * (span_s / ends[-1]) if num_requests > 1 else ends

    def _resized(self, gaps: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
        # each gap becomes the trace's gap of the same rank, after loosening the ranks
        rank = _ranks(gaps)
        if self.cascade_weight < 1:
            noise = rng.standard_normal(len(gaps))
            weight = self.cascade_weight
            rank = _ranks(weight * score_of(rank) + np.sqrt(1 - weight**2) * noise)
        return np.interp(rank, GAP_PROBABILITIES, self.gap_quantiles)

    def _misfit(self, gaps: NDArray[np.float64]) -> float:
        # squared log ratio of the dispersion of counts, drawn over found, over scales and two draws
        misfit = 0.0
        for seed in (0, 1):
            drawn = self.draw(len(gaps), 1.0, np.random.Generator(np.random.PCG64(seed)))
            for width in (width for width in FIT_WIDTHS_GAPS if width <= self.top_gaps):
                misfit += float(np.log(_dispersion(drawn, width) / _dispersion(gaps, width)) ** 2)
        return misfit

    def _draw_gaps(self, num_intervals: int, rng: np.random.Generator) -> NDArray[np.float64]:
        # ascending times, in mean gaps, of num_intervals * top_gaps requests
        start, count = self._draw_top(num_intervals, rng)
        width = float(self.top_gaps)
        done = []
        for spread in self.split_spreads:
            alone = count == 1  # halves are alike, so one request alone is uniform: no need to go on
            done.append(start[alone] + rng.uniform(0, width, int(alone.sum())))
            start, count = start[~alone], count[~alone]
            width /= 2
            left = rng.binomial(count, _left_share(spread, len(count), rng))
            start, count = np.concatenate((start, start + width)), np.concatenate((left, count - left))
            start, count = start[count > 0], count[count > 0]
        start = np.repeat(start, count)
        done.append(start + rng.uniform(0, width, len(start)))
        return np.sort(np.concatenate(done))

    def _draw_top(self, num_intervals: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        rate = np.ones(num_intervals)
        if self.top_spread > MIN_SPREAD:
            rate = rng.gamma(1 / self.top_spread, self.top_spread, num_intervals)
        count = rng.multinomial(num_intervals * self.top_gaps, rate / rate.sum())
        start = np.arange(num_intervals, dtype=np.float64) * self.top_gaps
        return start[count > 0], count[count > 0]


def _split_spread(gaps: NDArray[np.float64], half_width: float) -> float:
    # For n requests split by share p: E[(left - right)² | p] = n + n (n - 1) (2p - 1)².
    # Two alignments of the grid halve the noise of the estimate.
    above = pairs = squares = 0.0
    for offset in (0, 1):
        half = (gaps / half_width).astype(np.int64) + offset
        whole = (half >> 1 >= offset) & (half >> 1 < half[-1] >> 1)  # the ends of the trace cut intervals short
        half = half[whole]
        parent, index = np.unique(half >> 1, return_inverse=True)
        total = np.bincount(index, minlength=len(parent)).astype(np.float64)
        right = np.bincount(index, weights=(half & 1), minlength=len(parent))
        above += float(((total - 2 * right) ** 2 - total).sum())
        pairs += float((total * (total - 1)).sum())
        squares += float((total * total).sum())
    # even splits would give above = 0 with this standard deviation (two alignments, nearly the same data)
    noise = 2 * np.sqrt(squares)
    return min(MAX_SPREAD, above / pairs) if above > NOISE_DEVIATIONS * noise else 0.0


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    # place in ascending order, in (0, 1)
    rank = np.empty(len(values))
    rank[np.argsort(values)] = (np.arange(len(values)) + 0.5) / max(1, len(values))
    return rank


def _dispersion(gaps: NDArray[np.float64], width: int) -> float:
    # variance over mean of the counts in intervals of `width` mean gaps: 1 for Poisson
    counts = np.bincount((gaps / width).astype(np.int64))[:-1]
    return max(0.01, float(counts.var() / counts.mean()))


def _left_share(spread: float, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    if spread <= MIN_SPREAD:
        return np.full(size, 0.5)
    alpha = (1 / spread - 1) / 2  # Var(2p - 1) of a Beta(alpha, alpha) is 1 / (2 alpha + 1)
    return rng.beta(alpha, alpha, size)
