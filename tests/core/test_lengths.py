"""Expected output lengths follow what was seen (I18)."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from polyslo.core.lengths import expected_length, learn_length
from polyslo.core.state import LEARNED, MEAN


def _fleet(hand, mode=LEARNED):
    filled = hand(1)
    filled.fleet.settings["lengths"] = mode
    return filled.fleet


def test_nothing_seen_gives_the_prior(hand):
    """I18: before any request has finished 256 tokens are expected."""
    assert expected_length(_fleet(hand).handle, 0, 0, 10_000) == 256


def test_four_requests_weigh_as_much_as_the_prior(hand):
    """I18: four outputs of 100 tokens and the prior's four of 256 give their mean, 178."""
    fleet = _fleet(hand)
    for _ in range(4):
        learn_length(fleet.handle, 0, 100)
    assert expected_length(fleet.handle, 0, 0, 10_000) == 178


def test_the_expectation_converges_to_the_mean(hand):
    """I18: after 3,000 outputs the expectation is within 3% of their mean."""
    fleet = _fleet(hand)
    lengths = np.random.default_rng(5).geometric(1 / 400, 3000)
    for tokens in lengths:
        learn_length(fleet.handle, 0, int(tokens))
    assert abs(expected_length(fleet.handle, 0, 0, 10_000) / lengths.mean() - 1) < 0.03


def test_the_expectation_follows_a_shift(hand):
    """I18: old outputs fade: 12,000 outputs of 800 tokens after 4,000 of 100 bring it to within 10% of 800."""
    fleet = _fleet(hand)
    for tokens, count in ((100, 4_000), (800, 12_000)):
        for _ in range(count):
            learn_length(fleet.handle, 0, tokens)
    assert abs(expected_length(fleet.handle, 0, 0, 10_000) / 800 - 1) < 0.1


def test_a_survivor_is_expected_to_emit_as_the_long_ones_did(hand):
    """I18: half emit 10 tokens, half 1,000; one that has emitted 300 is expected to end near 1,000."""
    fleet = _fleet(hand)
    for _ in range(200):
        learn_length(fleet.handle, 0, 10)
        learn_length(fleet.handle, 0, 1000)
    assert expected_length(fleet.handle, 0, 0, 10_000) == 503  # (200*1010 + 4*256) / 404 = 502.5...
    # The prior still counts at 300: its bin begins at 256.
    assert expected_length(fleet.handle, 0, 300, 10_000) == 986
    assert expected_length(fleet.handle, 0, 400, 10_000) == 1000


def test_the_mean_does_not_condition(hand):
    """I18: with `mean` the emitted tokens only raise the tier's mean."""
    fleet = _fleet(hand, MEAN)
    for _ in range(200):
        learn_length(fleet.handle, 0, 10)
        learn_length(fleet.handle, 0, 1000)
    assert expected_length(fleet.handle, 0, 300, 10_000) == expected_length(fleet.handle, 0, 0, 10_000)


def test_tiers_learn_apart(hand):
    """I18: what one tier emits says nothing about another."""
    fleet = _fleet(hand)
    for _ in range(100):
        learn_length(fleet.handle, 0, 2000)
    assert expected_length(fleet.handle, 1, 0, 10_000) == 256


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seen=st.lists(st.integers(1, 8000), max_size=20),
    emitted=st.integers(0, 9000),
    spare=st.integers(1, 2000),
)
def test_the_expectation_keeps_its_bounds(hand, seen, emitted, spare):
    """I18: more than was emitted, at most `max_tokens`."""
    fleet = _fleet(hand)
    for tokens in seen:
        learn_length(fleet.handle, 0, tokens)
    assert emitted < expected_length(fleet.handle, 0, emitted, emitted + spare) <= emitted + spare
