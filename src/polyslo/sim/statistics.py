"""Means over seeds and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

# Two-sided 95% quantiles of Student's t for 1 to 10 degrees of freedom; beyond, the normal's is close.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def confidence_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return (mean, low, high): the 95% interval of the mean, Student's t; just the value when there is one."""
    mean = fmean(values)
    if len(values) < 2:
        return mean, mean, mean
    freedom = len(values) - 1
    quantile = _T95[freedom - 1] if freedom <= len(_T95) else 1.96
    half = quantile * stdev(values) / math.sqrt(len(values))
    return mean, max(0.0, mean - half), mean + half
