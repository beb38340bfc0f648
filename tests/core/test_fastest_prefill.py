"""No way to cut a prompt is faster than `fastest_prefill_s` says (I13), so that only the hopeless are given up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyslo.core.profile import fastest_prefill_s
from polyslo.profiles.library import load_profile, shipped_profiles

NAMES = shipped_profiles()


@pytest.mark.parametrize("name", NAMES)
def test_no_cut_of_a_prompt_is_faster(name):
    """I13: the sum of the iterations of any chunks is at least the bound, and 256 tokens in one chunk meet it."""
    profile = load_profile(name).profile

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(chunks=st.lists(st.integers(1, 8192), min_size=1, max_size=12))
    def check(chunks):
        done, total_s = 0, 0.0
        for chunk in chunks:
            total_s += profile.iteration_s(0, chunk, 0.0, done + 0.5 * chunk)
            done += chunk
        assert fastest_prefill_s(profile.handle, done) <= total_s + 1e-12

    check()
    assert fastest_prefill_s(profile.handle, 256) == pytest.approx(profile.iteration_s(0, 256, 0.0, 128.0))
