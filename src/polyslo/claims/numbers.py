"""Numbers as the page writes them, cut against polyserve: none reads as a bound that it misses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from polyslo.claims.markdown import NBSP
from polyslo.report.notation import MISSING, goodput_text, rate_text
from polyslo.sim.results import GoodputResult

_EXACT = 1e-9  # what floats may be off by


def ratio_text(ratio: float) -> str:
    """Write a ratio that should be high, cut to two decimals: 1.179 is `1.17x`; `∞` where only polyserve attains."""
    return "∞" if math.isinf(ratio) else f"{math.floor(100 * ratio + _EXACT) / 100:.2f}x"


def excess_text(ratio: float) -> str:
    """Write a ratio that should be low, rounded up to two decimals: 1.101 is `1.11x`."""
    return MISSING if not math.isfinite(ratio) else f"{math.ceil(100 * ratio - _EXACT) / 100:.2f}x"


def change_text(change: float) -> str:
    """Write a relative change as a signed percentage, rounded: `+1.3%`, `-4.0%`; `0.0%` has no sign."""
    text = f"{100 * change:+.1f}%"
    return "0.0%" if text in ("+0.0%", "-0.0%") else text


def with_interval(goodput: GoodputResult) -> str:
    """Write a goodput with its 95% interval, `412 (405 to 419)`; with one seed there is none."""
    text = goodput_text(goodput)
    if len(goodput.per_seed_rps) < 2:
        return text
    return f"{text} ({rate_text(goodput.low_rps)}{NBSP}to{NBSP}{rate_text(goodput.high_rps)})"


def target_text(target: float) -> str:
    """Write a target attainment: `0.90`."""
    return f"{target:.2f}"


def duration_text(seconds: float) -> str:
    """Write how long computing took: `40 s`, `12 min`, `3.4 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def finite_mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are finite; inf where there is none but inf."""
    kept = [value for value in values if math.isfinite(value)]
    return fmean(kept) if kept else math.inf
