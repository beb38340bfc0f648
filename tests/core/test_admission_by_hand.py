"""Each reason of a refusal, worked out by hand (I17); the profile is that of test_ladder_by_hand.py."""

from __future__ import annotations

import math

import pytest

from polyslo.core.admission import admit_colocated, admit_decode, admit_prefill, iteration_budget_s
from polyslo.core.belief import enqueue, reserve
from polyslo.core.forecast import foresee_first_token
from polyslo.core.scaling import assign, claim
from polyslo.core.state import DRAINING, FIRST_TOKEN, FITS, LEARNED, MEMORY, NONE, SECOND_TOKEN, STEADY_STATE, UNHEALTHY


def _judge(filled, r, budget_s=0.05):
    return admit_colocated(filled.handle, 0, r, 0.0, budget_s)


def test_an_empty_instance_takes_a_request(hand):
    """I17: 1,000 + 100 tokens: first token within one full 50 ms, peak 5 + 0.01 + 0.11 = 5.12 ms."""
    filled = hand(1)
    assign(filled.handle, 0, 1, 0.0)
    reason, first_s, iteration, peak_s = _judge(filled, filled.request(1, 1000, 100))
    assert (reason, iteration) == (FITS, 1)
    assert first_s == pytest.approx(0.05)
    assert peak_s == pytest.approx(5.12e-3)


@pytest.mark.parametrize(("tokens", "iterations"), [(4500, 1), (4501, 2), (9000, 2), (9001, 3)])
def test_a_long_prompt_takes_as_many_full_iterations_as_chunks(hand, tokens, iterations):
    """I17: 50 ms carry (50 - 5) / 0.01 = 4,500 prompt tokens, so 4,501 take two iterations, 100 ms."""
    filled = hand(1)
    assign(filled.handle, 0, 1, 0.0)
    reason, first_s, count, _ = _judge(filled, filled.request(1, tokens, 10))
    assert (reason, count) == (FITS, iterations)
    assert first_s == pytest.approx(0.05 * iterations)


def test_first_token(hand):
    """I17: 9,000 tokens need two full iterations, 100 ms; a TTFT of 99 ms is refused, one of 101 ms is not."""
    filled = hand(1)
    assign(filled.handle, 0, 1, 0.0)
    assert _judge(filled, filled.request(1, 9000, 10, ttft_s=0.099))[0] == FIRST_TOKEN
    assert _judge(filled, filled.request(1, 9000, 10, ttft_s=0.101))[0] == FITS


@pytest.mark.parametrize(("ttft_s", "expected"), [(0.079, SECOND_TOKEN), (0.081, FITS)])
def test_second_token(hand, ttft_s, expected):
    """I17: iterations of 50 ms give a request of 20 ms its first token by 50 ms and its second by 100.

    That is due at TTFT + 20 ms: 99 is too early, 101 is not. (The ladder asks no instance of a looser tier.)
    """
    filled = hand(1)
    assign(filled.handle, 0, 1, 0.0)
    reason, first_s, _, _ = _judge(filled, filled.request(0, 1000, 10, ttft_s=ttft_s))
    assert (reason, first_s) == (expected, pytest.approx(0.05))


@pytest.mark.parametrize(
    ("chunk_limit", "expected", "peak_s"), [(1499, FITS, 19.991e-3), (1501, STEADY_STATE, 20.0109e-3)]
)
def test_a_constant_chunk_is_counted_full_beside_each_token(hand, chunk_limit, expected, peak_s):
    """I17: 5 + 14.99 ms, and 0.001 for 8 + 2 KV tokens, keep to 20 ms; 5 + 15.01 don't, were there 9 KV tokens only.

    That is refused as a steady state before the second token is asked for: TTFT + TPOT is then kept with the TTFT.
    """
    filled = hand(1, chunk_limit=chunk_limit)
    filled.fleet.settings["elastic"] = 0
    reason, _, _, found_s = _judge(filled, filled.request(0, 8, 2, ttft_s=0.0201), math.inf)
    assert (reason, found_s) == (expected, pytest.approx(peak_s))


def test_steady_state(hand):
    """I17: 9,000 + 2,000 tokens peak at 10,999: 5 + 0.01 + 1.0999 = 6.1099 ms, above a TPOT of 6, below 6.2 ms."""
    filled = hand(1)
    r = filled.request(1, 9000, 2000, ttft_s=10.0)
    reason, _, _, peak_s = _judge(filled, r, 0.006)
    assert reason == STEADY_STATE
    assert peak_s == pytest.approx(6.1099e-3)
    assert _judge(filled, r, 0.0062)[0] == FITS


def test_memory(hand):
    """I17: 9,000 + 2,000 tokens peak at 10,999; with 3% kept free 11,330 is too small, 11,350 not."""
    for capacity, expected in ((11_330, MEMORY), (11_350, FITS)):
        filled = hand(1, capacity=capacity)
        assert _judge(filled, filled.request(1, 9000, 2000))[0] == expected


def test_slots(hand):
    """I17: an instance that may hold one request refuses the second as memory."""
    filled = hand(1, max_residents=1)
    r = filled.request(1, 100, 10)
    filled.fleet.instances["num_residents"] = 1
    assert _judge(filled, r)[0] == MEMORY


@pytest.mark.parametrize(("foreseen_s", "expected"), [(90.0, FIRST_TOKEN), (200.0, FITS)])
def test_decodes_that_leave_no_room_end_the_forecast(hand, foreseen_s, expected):
    """I17: 400 decodes with 100,000 KV tokens take 19 of 20 ms, and 0.04 ms more each iteration.

    The newcomer's 60 tokens fit into the first. Of the 5,000 behind it about 1,250 fit before the decodes take all,
    as nobody is known to leave: refused where they were promised a first token by 100 s, and not where that is lost.
    """
    filled = hand(1)
    filled.fleet.settings["lengths"] = LEARNED
    assign(filled.handle, 0, 0, 0.0)
    behind = filled.request(0, 5000, 10, ttft_s=100.0)
    filled.fleet.requests["predicted_first_s"][behind] = foreseen_s
    instance = filled.fleet.instances
    instance["busy"] = 1
    enqueue(filled.handle, behind, 0, 0.0)
    instance["num_decodes"], instance["decode_kv_tokens"] = 400, 99_600
    r = filled.request(0, 60, 10)
    reason, first_s, iteration = foresee_first_token(filled.handle, 0, r, 0.0, 0.02)
    assert (reason, first_s, iteration) == (expected, pytest.approx(0.02), 2)


@pytest.mark.parametrize("why", [DRAINING, UNHEALTHY])
def test_a_closed_instance_takes_nothing(hand, why):
    """I17: an instance that drains or is ill refuses with that reason in any role, and the pool does not give it."""
    filled = hand(2, pd=True)
    r = filled.request(1, 100, 10)
    filled.fleet.instances["closed"][0] = why
    assert _judge(filled, r)[0] == why
    assert admit_prefill(filled.handle, 0, r, 0.0)[0] == why
    assert admit_decode(filled.handle, 0, r, 0.0, 0.0, 0.05)[0] == why
    assert claim(filled.handle, 1, 0.0) == 1
    assert claim(filled.handle, 1, 0.0) == NONE


def test_second_token_disaggregated(hand):
    """I17: due 500 + 50 ms. The iteration then running and its own take up to 5.11 ms each, the transfer 1 ms.

    Prefilled at 538 ms: 539 + 10.2 = 549.2 ms. At 539.5: 550.7 ms, too late.
    """
    filled = hand(1, pd=True)
    assign(filled.handle, 0, 1, 0.0)
    r = filled.request(1, 1000, 10)
    assert admit_decode(filled.handle, 0, r, 0.538, 0.0, 0.05)[0] == FITS
    assert admit_decode(filled.handle, 0, r, 0.5395, 0.0, 0.05)[0] == SECOND_TOKEN


def test_second_token_disaggregated_on_a_busy_instance(hand):
    """I17: with a resident of the same size both take up to 5.22 ms: 548.4 ms from 537, 550.4 ms from 539."""
    filled = hand(1, pd=True)
    assign(filled.handle, 0, 1, 0.0)
    reserve(filled.handle, filled.request(1, 1000, 10), 0, 1)
    r = filled.request(1, 1000, 10)
    assert admit_decode(filled.handle, 0, r, 0.537, 0.0, 0.05)[0] == FITS
    assert admit_decode(filled.handle, 0, r, 0.539, 0.0, 0.05)[0] == SECOND_TOKEN


@pytest.mark.parametrize(("prefilled_s", "expected"), [(0.488, FITS), (0.4895, FIRST_TOKEN)])
def test_first_token_of_the_decode_side(hand, prefilled_s, expected):
    """I17: where the decode side gives the first token, that one is due at 500 ms, after 1 + 2 x 5.111 ms.

    Prefilled at 488 ms: 499.2 ms. At 489.5: 500.7 ms, too late.
    """
    filled = hand(1, pd=True)
    filled.fleet.settings["first_from_decode"] = 1
    assign(filled.handle, 0, 1, 0.0)
    reason, _, peak_s = admit_decode(filled.handle, 0, filled.request(1, 1000, 10), prefilled_s, 0.0, 0.05)
    assert (reason, peak_s) == (expected, pytest.approx(5.111e-3))


def _two_alike(hand, **fields):
    """Return a decode instance to which 1,000 + 2,000 tokens were promised, and a request for as many."""
    filled = hand(1, pd=True, **fields)
    assign(filled.handle, 0, 1, 0.0)
    reserve(filled.handle, filled.request(1, 1000, 2000), 0, 1)
    return filled, filled.request(1, 1000, 2000)


@pytest.mark.parametrize(("capacity", "expected"), [(6183, MEMORY), (6184, FITS)])
def test_memory_disaggregated(hand, capacity, expected):
    """I17: two of 1,000 + 2,000 hold 2,999 each at their end, 5,998; with 3% kept free 6,183 is too small."""
    filled, r = _two_alike(hand, capacity=capacity)
    assert admit_decode(filled.handle, 0, r, 0.0, 0.0, 0.05)[0] == expected


@pytest.mark.parametrize(("max_residents", "expected"), [(1, MEMORY), (2, FITS)])
def test_slots_disaggregated(hand, max_residents, expected):
    """I17: a decode instance that may hold one request refuses the second, which is still on its way, as memory."""
    filled, r = _two_alike(hand, max_residents=max_residents)
    assert admit_decode(filled.handle, 0, r, 0.0, 0.0, 0.05)[0] == expected


@pytest.mark.parametrize(("limit_s", "expected"), [(5.6197e-3, STEADY_STATE), (5.6199e-3, FITS)])
def test_steady_state_disaggregated(hand, limit_s, expected):
    """I17: the same two take 5 + 0.02 + 0.5998 = 5.6198 ms at their end."""
    filled, r = _two_alike(hand)
    reason, _, peak_s = admit_decode(filled.handle, 0, r, 0.0, 0.0, limit_s)
    assert (reason, peak_s) == (expected, pytest.approx(5.6198e-3))


def test_prefill_memory_disaggregated(hand):
    """I17: a prefill instance of 1,000 KV tokens takes a prompt of 1,000 and refuses one of 1,001."""
    filled = hand(1, pd=True, capacity=1000)
    assign(filled.handle, 0, 2, 0.0)
    assert admit_prefill(filled.handle, 0, filled.request(1, 1000, 1), 0.0)[0] == FITS
    assert admit_prefill(filled.handle, 0, filled.request(1, 1001, 1), 0.0)[0] == MEMORY


def test_the_margin_shortens_iterations(hand):
    """I17: with a margin of 10% tier 1's iterations last 45 ms."""
    filled = hand(1)
    filled.fleet.settings["margin_ratio"] = 0.1
    assert iteration_budget_s(filled.handle, 1) == pytest.approx(0.045)
