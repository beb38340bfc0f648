"""The fluid optimum against a search (I19)."""

from __future__ import annotations

import numpy as np
import pytest

from polyslo.core.fluid import (
    LengthMoments,
    colocated_rate_rps,
    decode_rate_rps,
    instance_need,
    optimum_rps,
    prefill_rate_rps,
)

PROMPTS, OUTPUTS = [300, 500, 1600], [40, 250, 90]
BASE_S, TOKEN_S, KV_S, PAIR_S = 5e-3, 1e-5, 1e-7, 4e-9  # of an iteration, a token, a token of KV, a pair of tokens
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


def largest(length_s: np.ndarray, request_s: float, request_tokens: float, capacity: int) -> float:
    """Search a grid of iteration lengths and rates for the largest rate that fits into its own iterations."""
    rates = np.linspace(0.1, 200, 2000)
    in_flight = length_s[:, None] * rates  # requests whose work an iteration has to carry
    fits = (BASE_S + request_s * in_flight <= length_s[:, None]) & (request_tokens * in_flight <= capacity)
    return float(np.where(fits, rates, 0.0).max())


@pytest.mark.parametrize("capacity", [100_000, 50_000, 12_000])
@pytest.mark.parametrize(("tpots_s", "shares"), [([0.02, 0.05], [0.3, 0.7]), ([0.008, 0.1], [0.8, 0.2])])
def test_the_disaggregated_optimum_is_what_a_search_finds(make_profile, tpots_s, shares, capacity):
    """I19: over sizes of the prefill side and of each tier, iteration lengths and rates, one request after the other.

    A prefill instance attends from every prompt token to those before it; a decode instance holds prompts and what
    has been emitted. Of 7 instances each side has what suits it; the slowest of them decides.
    """
    profile = make_profile(base_s=BASE_S, token_s=TOKEN_S, kv_s=KV_S, pair_s=PAIR_S, capacity=capacity)
    prefill_s = np.mean([sum(TOKEN_S + PAIR_S * before for before in range(p)) for p in PROMPTS])
    kv = np.mean([sum(p + i for i in range(1, o)) for p, o in zip(PROMPTS, OUTPUTS, strict=True)])
    decode_s = np.mean([o - 1 for o in OUTPUTS]) * TOKEN_S + kv * KV_S
    lengths = np.geomspace(0.002, 1.0, 400)  # of the TPOT, or of a second
    rates = [largest(lengths, prefill_s, np.mean(PROMPTS), capacity)]
    rates += [largest(lengths * tpot_s, decode_s, kv, capacity) for tpot_s in tpots_s]
    moments = LengthMoments.of(PROMPTS, OUTPUTS)
    found = [prefill_rate_rps(profile, moments), *(decode_rate_rps(profile, tpot_s, moments) for tpot_s in tpots_s)]
    # its own lengths are 5% apart, which matters more where the best ones are near the empty iteration's 5 ms
    assert found == pytest.approx(rates, rel=0.03 if capacity == 12_000 else 0.015)

    parts = np.linspace(0, 1, 401)
    first, second = np.meshgrid(parts, parts)
    sizes = np.stack([first, second, np.maximum(0.0, 1 - first - second)])  # shape (sides, 401, 401), of the fleet
    served = 7 * np.min(sizes * np.divide(rates, [1.0, *shares])[:, None, None], axis=0)
    served[first + second > 1 + 1e-9] = 0.0
    optimum = optimum_rps(profile, tpots_s, shares, moments, num_instances=7, mode="pd")
    assert served.max() == pytest.approx(optimum, rel=0.03 if capacity == 12_000 else 0.02)
    best = sizes[(slice(None), *np.unravel_index(served.argmax(), served.shape))]
    need = instance_need(profile, tpots_s, shares, moments, mode="pd")
    assert np.roll(need, 1) / need.sum() == pytest.approx(best, abs=0.01)
