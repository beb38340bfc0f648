"""The standard normal distribution and its inverse for arrays (numpy has neither), from a table; to 1e-5.

What copulas need: `rank_of` turns normal scores into ranks, `score_of` ranks into normal scores.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_SCORES = np.linspace(-8.0, 8.0, 4097)
_RANKS = np.array([0.5 * math.erfc(-score / math.sqrt(2)) for score in _SCORES])


def rank_of(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability, in (0, 1), of a standard normal below each score."""
    return np.asarray(np.interp(score, _SCORES, _RANKS))


def score_of(rank: NDArray[np.float64]) -> NDArray[np.float64]:
    """Score below which a standard normal is with the probability `rank`, each in (0, 1)."""
    return np.asarray(np.interp(rank, _RANKS, _SCORES))
