"""Goodput at several targets with few runs, on attainments that are known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyslo.claims.search import HIGHEST_RATIO, crossings

TARGETS = (0.99, 0.90)


def falling(middle: float, width: float):
    """Return an attainment that falls around `middle`, and where it meets a target."""

    def attainment(rate: float) -> float:
        return 1.0 / (1.0 + math.exp(min(700.0, (rate - middle) / width)))

    def rate_at(target: float) -> float:
        return middle + width * math.log((1 - target) / target)

    return attainment, rate_at


@given(st.floats(0.3, 1.7), st.floats(0.003, 0.05), st.floats(0.1, 1.9), st.floats(1.0, 1000.0))
def test_every_target_is_found_within_the_tolerance(middle, width, guess, scale):
    """Wherever the search begins and whatever the scale, each crossing is within 1% of the scale of the true one."""
    attainment, rate_at = falling(middle, width)
    found, seen = crossings(
        lambda rate: attainment(rate / scale), TARGETS, [guess * scale] * 2, scale=scale, tolerance=0.01
    )
    for target, rate in zip(TARGETS, found, strict=True):
        assert rate / scale == pytest.approx(rate_at(target), abs=0.01)
    assert all(seen[rate] == attainment(rate / scale) for rate in seen)


def test_a_good_guess_takes_few_runs():
    """Where a similar search has been made, two targets take at most six runs."""
    attainment, rate_at = falling(0.95, 0.01)
    guesses = [1.01 * rate_at(target) for target in TARGETS]
    _, seen = crossings(attainment, TARGETS, guesses, scale=1.0, tolerance=0.01)
    assert len(seen) <= 6


def test_a_target_that_is_never_attained_is_zero():
    """A policy that misses the target at every rate has no goodput, and the lower target is still found."""
    found, _ = crossings(lambda rate: 0.95 if rate < 0.5 else 0.0, TARGETS, [0.9, 0.9], scale=1.0, tolerance=0.01)
    assert found[0] == 0.0
    assert found[1] == pytest.approx(0.5, abs=0.01)


def test_a_target_that_is_always_attained_ends_the_search():
    """The search goes up to twice the scale and says so by that rate."""
    found, seen = crossings(lambda rate: 1.0, TARGETS, [0.9, 1.0], scale=10.0, tolerance=0.01)
    assert found == [HIGHEST_RATIO * 10.0] * 2
    assert max(seen) == HIGHEST_RATIO * 10.0


def test_a_step_is_cornered():
    """Where attainment falls off a cliff, the answer is within the tolerance of it."""
    found, _ = crossings(lambda rate: 1.0 if rate < 0.777 else 0.0, TARGETS, [0.2, 1.9], scale=1.0, tolerance=0.01)
    assert found == [pytest.approx(0.777, abs=0.01)] * 2
