"""The fluid optimum against a search (I19)."""

from __future__ import annotations

import numpy as np
import pytest

from polyslo.core.fluid import LengthMoments, colocated_rate_rps, optimum_rps, prefill_rate_rps

MOMENTS = LengthMoments.of([400, 600], [50, 150])


def test_moments_are_the_means_of_the_definition():
    """I19: E[P], E[O-1], E[sum of P+i] and E[P*P/2]/E[P] summed term by term."""
    prompts, outputs = [400, 600], [50, 150]
    kv = np.mean([sum(p + i for i in range(1, o)) for p, o in zip(prompts, outputs, strict=True)])
    assert MOMENTS.prompt == 500
    assert MOMENTS.decodes == 99
    assert MOMENTS.kv == kv
    assert MOMENTS.pairs_per_token == pytest.approx((400**2 / 2 + 600**2 / 2) / 2 / 500)


def test_a_linear_profile_has_its_optimum_in_closed_form(make_profile):
    """I19: 5 ms + 0.01 ms a token, free KV: lambda T (99 + 500) * 1e-5 = T - 5 ms at T = 50 ms gives 150.25."""
    profile = make_profile(kv_s=0.0, capacity=10_000_000)
    assert colocated_rate_rps(profile, 0.05, MOMENTS) == pytest.approx(0.045 / (0.05 * 599e-5), rel=2e-3)


def test_memory_bounds_the_optimum(make_profile):
    """I19: where KV is short the rate is capacity / (T * (E[kv] + E[P])) at the best T, below the time bound."""
    profile = make_profile(kv_s=0.0, capacity=20_000)
    lengths_s = 0.05 * np.geomspace(0.1, 1.0, 48)
    by_memory = 20_000 / (lengths_s * (MOMENTS.kv + MOMENTS.prompt))
    by_time = (lengths_s - 0.005) / (lengths_s * 599e-5)
    best = np.minimum(by_memory, by_time).max()
    assert colocated_rate_rps(profile, 0.05, MOMENTS) == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize("tpot_s", [0.02, 0.05])
def test_the_optimum_is_what_a_search_finds(make_profile, tpot_s):
    """I19: on a grid of iteration lengths and rates the largest feasible rate is within 1%."""
    profile = make_profile()
    best = 0.0
    for length_s in tpot_s * np.geomspace(0.1, 1.0, 48):
        for rate in np.linspace(1, 160, 319):
            n, chunk, kv = (rate * length_s * x for x in (MOMENTS.decodes, MOMENTS.prompt, MOMENTS.kv))
            time_s = 5e-3 + 1e-5 * (n + chunk) + 1e-7 * kv
            if time_s <= length_s and kv + chunk <= 100_000:
                best = max(best, rate)
    assert colocated_rate_rps(profile, tpot_s, MOMENTS) == pytest.approx(best, rel=0.01)


def test_tiers_share_the_fleet_harmonically(make_profile):
    """I19: N / sum(share / rate), and in PD one more term for the prefill side."""
    profile, tpots_s, shares = make_profile(), [0.02, 0.05], [0.3, 0.7]
    rates = [colocated_rate_rps(profile, t, MOMENTS) for t in tpots_s]
    found = optimum_rps(profile, tpots_s, shares, MOMENTS, num_instances=7, mode="co")
    assert found == pytest.approx(7 / (0.3 / rates[0] + 0.7 / rates[1]))
    apart = optimum_rps(profile, tpots_s, shares, MOMENTS, num_instances=7, mode="pd")
    assert apart < 7 * prefill_rate_rps(profile, MOMENTS)


def test_a_pace_out_of_reach_has_no_optimum(make_profile):
    """I19: a TPOT below the empty iteration's 5 ms can't be served: 0."""
    assert optimum_rps(make_profile(), [0.004], [1.0], MOMENTS, num_instances=3, mode="co") == 0.0
