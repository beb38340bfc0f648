"""Goodput at several targets with few runs: attainments already seen narrow the next search.

Attainment is taken to fall with the rate. From a first guess the search steps until the target lies between two
rates, then narrows by interpolation, and answers with the crossing between the last two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

STEP_RATIO = 0.08  # of the rate: the first steps away from a guess
NARROWEST = 0.25  # of the interval: no guess comes closer to its ends
LOWEST_RATIO = 0.02  # of the scale: below, goodput is 0
HIGHEST_RATIO = 2.0  # of the scale: where the search ends


def crossings(
    attainment_at: Callable[[float], float], targets: Sequence[float], guesses: Sequence[float], *, scale: float,
    tolerance: float,
) -> tuple[list[float], dict[float, float]]:  # fmt: skip
    """Return the highest rate that attains each target, and every attainment seen, by rate.

    `scale` is a rate to measure by (the fluid optimum), `tolerance` the share of it that a crossing is known to.
    A rate of 0: the target is never attained; `HIGHEST_RATIO * scale`: always.
    """
    seen: dict[float, float] = {}

    def look(rate: float) -> None:
        seen[rate] = attainment_at(rate)

    found = []
    for target, guess in zip(targets, guesses, strict=True):
        if not _near(seen, guess, tolerance * scale):
            look(min(guess, HIGHEST_RATIO * scale))
        found.append(_crossing(look, seen, target, scale, tolerance))
    return found, seen


def _crossing(
    look: Callable[[float], None], seen: dict[float, float], target: float, scale: float, tolerance: float
) -> float:
    step = STEP_RATIO
    while True:
        low, high = _interval(seen, target)
        if low is None and high is not None:
            if high <= LOWEST_RATIO * scale:
                return 0.0
            look(max(high / (1 + step), LOWEST_RATIO * scale))
            step *= 2
        elif high is None and low is not None:
            if low >= HIGHEST_RATIO * scale:
                return HIGHEST_RATIO * scale
            look(min(low * (1 + step), HIGHEST_RATIO * scale))
            step *= 2
        else:
            assert low is not None
            assert high is not None
            share = (seen[low] - target) / (seen[low] - seen[high])
            if high - low <= tolerance * scale:
                return low + share * (high - low)
            look(low + min(max(share, NARROWEST), 1 - NARROWEST) * (high - low))


def _interval(seen: dict[float, float], target: float) -> tuple[float | None, float | None]:
    """Return (the highest rate below every miss that attains the target, the lowest rate that misses it)."""
    high = min((rate for rate, attainment in seen.items() if attainment < target), default=None)
    below = math.inf if high is None else high
    low = max((rate for rate, attainment in seen.items() if attainment >= target and rate < below), default=None)
    return low, high


def _near(seen: dict[float, float], rate: float, distance: float) -> bool:
    return any(abs(rate - other) <= distance for other in seen)
