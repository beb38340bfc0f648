"""Goodput at several targets with few runs: attainments already seen narrow the next search.

Attainment is taken to fall with the rate. From a first guess the search steps until the target lies between two
rates, then narrows by interpolation, and answers with the crossing between the last two. It interpolates the
logarithm of the misses, which is nearly straight where attainment itself bends sharply.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

FIRST_STEP = 1.06  # from the first guess
NEAREST, FARTHEST = 1.01, 1.5  # how far a further step may go
JUST_WITHIN = 0.9  # of the tolerance: how close to an end of the interval a guess may come
LEAST_MISS = 1e-4  # what a run without a miss counts as
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
    margin = JUST_WITHIN * tolerance * scale
    while True:
        low, high = _interval(seen, target)
        if low is None:
            assert high is not None
            if high <= LOWEST_RATIO * scale:
                return 0.0
            guess = _extrapolated(seen, target) - margin
            look(min(max(guess, high / FARTHEST, LOWEST_RATIO * scale), high / NEAREST))
        elif high is None:
            if low >= HIGHEST_RATIO * scale:
                return HIGHEST_RATIO * scale
            guess = _extrapolated(seen, target) + margin
            look(min(max(guess, low * NEAREST), low * FARTHEST, HIGHEST_RATIO * scale))
        else:
            guess = _line(low, seen[low], high, seen[high], target)
            if high - low <= tolerance * scale:
                return guess
            if guess - low < margin:  # likely a miss: then the interval is narrow enough
                guess = low + min(margin, 0.5 * (high - low))
            elif high - guess < margin:
                guess = high - min(margin, 0.5 * (high - low))
            look(guess)


def _interval(seen: dict[float, float], target: float) -> tuple[float | None, float | None]:
    """Return (the highest rate below every miss that attains the target, the lowest rate that misses it)."""
    high = min((rate for rate, attainment in seen.items() if attainment < target), default=None)
    below = math.inf if high is None else high
    low = max((rate for rate, attainment in seen.items() if attainment >= target and rate < below), default=None)
    return low, high


def _extrapolated(seen: dict[float, float], target: float) -> float:
    """Return where the two rates nearest to the target point to; far up or down where they tell nothing."""
    attains = all(attainment >= target for attainment in seen.values())
    first, *others = sorted(seen, reverse=attains)
    if not others or (seen[first] - seen[others[0]]) * (first - others[0]) >= 0:
        return first * (FIRST_STEP if attains else 1 / FIRST_STEP)
    return _line(first, seen[first], others[0], seen[others[0]], target)


def _line(rate: float, attainment: float, other: float, other_attainment: float, target: float) -> float:
    """Return the rate at which the line through two points meets the target."""
    first, second, wanted = (math.log(max(1.0 - x, LEAST_MISS)) for x in (attainment, other_attainment, target))
    return rate + (wanted - first) / (second - first) * (other - rate) if second != first else math.inf


def _near(seen: dict[float, float], rate: float, distance: float) -> bool:
    return any(abs(rate - other) <= distance for other in seen)
