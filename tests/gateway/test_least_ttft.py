"""The least TTFT by a prompt's length, between points of the profile."""

from __future__ import annotations

from functools import partial

import pytest

from polyslo.core.profile import fastest_prefill_s
from polyslo.gateway.requests.least_ttft import LeastTtft
from polyslo.profiles.library import load_profile

PROFILE = load_profile("llama-3.1-8b-h200-tp1").profile  # compiled code has but its address
FASTEST_S = partial(fastest_prefill_s, PROFILE.handle)


@pytest.mark.parametrize("tokens", [16, 17, 100, 511, 512, 513, 1000, 8191, 8192, 20_000, 99_999, 100_000])
def test_between_points_it_is_the_profiles(tokens):
    """To within a percent, at every length."""
    assert LeastTtft.of(FASTEST_S, 100_000).seconds(tokens) == pytest.approx(FASTEST_S(tokens), rel=1e-2)


def test_where_nothing_is_known_nothing_is_bounded():
    """Shorter than the shortest it goes on in a line, not below 0; longer than the longest likewise."""
    assert LeastTtft().seconds(1000) == 0.0
    least = LeastTtft((16, 32, 64), (0.1, 0.2, 0.4))
    assert [least.seconds(tokens) for tokens in (1, 16, 24, 64, 128)] == pytest.approx([0.00625, 0.1, 0.15, 0.4, 0.8])
