"""The TPOTs that one SLO class asks for: some values with equal chances, or a range drawn log-uniformly.

Log-uniform, because what a request pays for pace and what a reader notices of it are ratios: as many requests ask
for 20 to 30 ms as for 40 to 60.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

POINTS_A_RANGE = 48


@dataclass(frozen=True, slots=True)
class TpotValues:
    """TPOTs in seconds, each as likely as the others."""

    values_s: tuple[float, ...]

    def at_rank(self, rank: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the TPOT at each rank in [0, 1), same shape, seconds."""
        return np.asarray(self.values_s)[(rank * len(self.values_s)).astype(int)]

    def share_below(self, tpot_s: float) -> float:
        """Return the share of requests that ask for less than `tpot_s`."""
        return sum(value_s < tpot_s for value_s in self.values_s) / len(self.values_s)

    def points_s(self, *, middle: bool) -> tuple[float, ...]:
        """Return TPOTs that stand for equal shares of the requests: the values."""
        return self.values_s


@dataclass(frozen=True, slots=True)
class TpotRange:
    """TPOTs from `low_s` up to `high_s` seconds, drawn log-uniformly."""

    low_s: float
    high_s: float

    def at_rank(self, rank: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the TPOT at each rank in [0, 1), same shape, seconds."""
        return np.asarray(np.maximum(self.low_s, self.low_s * (self.high_s / self.low_s) ** rank))

    def share_below(self, tpot_s: float) -> float:
        """Return the share of requests that ask for less than `tpot_s`."""
        return min(1.0, max(0.0, math.log(tpot_s / self.low_s) / math.log(self.high_s / self.low_s)))

    def points_s(self, *, middle: bool) -> tuple[float, ...]:
        """Return TPOTs that stand for equal shares of the requests: the middle of each share, or its smallest.

        The smallest are rounded down to three digits of a millisecond, so that tiers that begin there read well.
        """
        ranks = (np.arange(POINTS_A_RANGE) + 0.5 * middle) / POINTS_A_RANGE
        points_s = self.at_rank(ranks)
        return tuple(points_s.tolist()) if middle else tuple(max(self.low_s, _three_digits(t)) for t in points_s)


def _three_digits(tpot_s: float) -> float:
    scale = 10 ** (2 - math.floor(math.log10(tpot_s * 1e3)))
    return math.floor(tpot_s * 1e3 * scale + 1e-6) / scale / 1e3
