"""Prefill apart from decode, worked out by hand (I17); the profile is that of test_ladder_by_hand.py.

A prefill instance's iterations last what they carry, at most 50 ms (4,500 tokens); a transfer takes 1 ms.
"""

from __future__ import annotations

import pytest

from polyslo.core.admission import admit_colocated, admit_prefill, prefill_due_s
from polyslo.core.belief import enqueue
from polyslo.core.ladder import place
from polyslo.core.scaling import assign
from polyslo.core.slowness import believe_slowness
from polyslo.core.state import DECODE_ONLY, EITHER, FIRST_TOKEN, FITS, OWN, PROMOTED, SCALED_UP, SPREADING

PREFILL = 2  # the group, with two tiers


def test_a_prefill_ends_early_enough_for_the_second_token(hand):
    """I17: transfer 1 + 2 x 50 - 50 = 51 ms before a TTFT of 500 ms: due at 449 ms. Co-located: at 500 ms."""
    apart, together = hand(1, pd=True), hand(1)
    assert prefill_due_s(apart.handle, apart.request(1, 1000, 10)) == pytest.approx(0.449)
    assert prefill_due_s(together.handle, together.request(1, 1000, 10)) == pytest.approx(0.5)


def test_a_prefill_keeps_half_of_what_the_ttft_leaves(hand):
    """I17: alone it takes 15 of 60 ms; of the 45 ms left at most 22.5 are given up: due at 37.5 ms."""
    filled = hand(1, pd=True)
    assert prefill_due_s(filled.handle, filled.request(1, 1000, 10, ttft_s=0.06)) == pytest.approx(0.0375)


def test_the_margin_is_kept_of_the_ttft(hand):
    """I17: with a margin of 10% a first token within 500 ms is promised only by 450 ms."""
    filled = hand(1)
    filled.fleet.settings["margin_ratio"] = 0.1
    assert prefill_due_s(filled.handle, filled.request(1, 1000, 10)) == pytest.approx(0.45)


def test_a_prefill_that_ends_at_the_ttft_is_too_late(hand):
    """I17: both end at the TTFT of 50 ms: in one full iteration of 50 ms; behind one that ends at 35 ms, after 15.

    Co-located that is in time. Disaggregated it is due at 50 - (50 - 15) / 2 = 32.5 ms, and refused.
    """
    together, apart = hand(1), hand(1, pd=True)
    assign(together.handle, 0, 1, 0.0)
    reason, first_s, _, _ = admit_colocated(together.handle, 0, together.request(1, 1000, 10, ttft_s=0.05), 0.0, 0.05)
    assert (reason, first_s) == (FITS, pytest.approx(0.05))
    assign(apart.handle, 0, PREFILL, 0.0)
    apart.fleet.instances["busy"] = 1
    apart.fleet.instances["iteration_end_s"] = 0.035
    reason, first_s = admit_prefill(apart.handle, 0, apart.request(1, 1000, 10, ttft_s=0.05), 0.0)
    assert (reason, first_s) == (FIRST_TOKEN, pytest.approx(0.05))
    # With 117.5 ms it is due at 117.5 - 51 = 66.5 ms.
    reason, first_s = admit_prefill(apart.handle, 0, apart.request(1, 1000, 10, ttft_s=0.1175), 0.0)
    assert (reason, first_s) == (FITS, pytest.approx(0.05))


@pytest.mark.parametrize(("ttft_s", "expected"), [(0.065, FIRST_TOKEN), (0.08, FITS)])
def test_a_newcomer_may_not_lengthen_the_iteration_of_a_promise(hand, ttft_s, expected):
    """I17: from 10 ms on, 3,000 tokens end at 45 ms; with the newcomer's 1,000 beside them at 55 ms.

    Alone they take 35 ms. A TTFT of 65 ms makes them due at 65 - 30 / 2 = 50 ms; one of 80 ms at 80 - 45 / 2 = 57.5.
    """
    filled = hand(1, pd=True)
    assign(filled.handle, 0, PREFILL, 0.0)
    filled.fleet.instances["busy"] = 1
    filled.fleet.instances["iteration_end_s"] = 0.01
    enqueue(filled.handle, filled.request(1, 3000, 10, ttft_s=ttft_s), 0, 0.0)
    assert admit_prefill(filled.handle, 0, filled.request(1, 1000, 10, ttft_s=1.0), 0.0)[0] == expected


def test_prompts_that_end_do_not_decode_on_a_prefill_instance(hand):
    """I17: 4,400 tokens take 49 ms; 4,500 behind them have the next iteration to themselves: 99 ms, not two more.

    Were the ended prompt a decode there, its token and KV (0.45 ms) would leave room for 4,454 tokens only.
    """
    filled = hand(1, pd=True)
    assign(filled.handle, 0, PREFILL, 0.0)
    filled.fleet.instances["busy"] = 1
    first, second = filled.request(1, 4400, 10), filled.request(1, 4600, 10, ttft_s=0.6)
    enqueue(filled.handle, first, 0, 0.0)
    # 4,400 and 100 of the second's in 50 ms, then its other 4,500 in 50 ms
    assert admit_prefill(filled.handle, 0, second, 0.0) == (FITS, pytest.approx(0.1))


def test_claims_are_given_back_when_the_other_side_refuses(hand):
    """I17: two empty instances; the decode side would take it, the prefill side is 2.5 ms too slow: both go back.

    9,000 tokens take two iterations of 50 ms, alone in one piece 95 ms; a TTFT of 100 ms makes them due at 97.5.
    """
    filled = hand(2, pd=True)
    assert not place(filled.handle, filled.request(1, 9000, 10, ttft_s=0.1), 0.0)
    assert filled.fleet.group_size.tolist() == [0, 0, 0, 2]
    assert filled.fleet.requests["reasons"][0] == 1 << FIRST_TOKEN


@pytest.mark.parametrize("idle", [1, 8])
def test_a_prompt_that_would_queue_long_takes_an_idle_instance(hand, idle):
    """I17: of ten instances one or more are idle: a prompt that would wait 265 of its 449 ms takes one of them."""
    filled = hand(10, pd=True)
    assign(filled.handle, 0, PREFILL, 0.0)
    assign(filled.handle, 1, 1, 0.0)
    for i in range(2, 10 - idle):
        assign(filled.handle, i, 0, 0.0)
    filled.fleet.instances["busy"][0] = 1
    filled.fleet.instances["iteration_end_s"][0] = 0.25
    r = filled.request(1, 1000, 10)
    assert place(filled.handle, r, 0.0)
    assert filled.fleet.requests["rung"][r] == SCALED_UP
    assert filled.fleet.requests["instance"][r] > 1
    assert filled.fleet.requests["predicted_first_s"][r] == pytest.approx(0.015)


@pytest.mark.parametrize(("without", "expected"), [(0, 1), (1 << SPREADING, 0)])
def test_prompts_go_to_the_least_loaded_prefill_instance(hand, without, expected):
    """I17: 3,000 tokens queue on the first prefill instance and 1,000 on the second; eight more are idle.

    Both would be in time. Without spreading it is the most loaded one that takes the prompt, as in the paper.
    """
    filled = hand(11, pd=True)
    filled.fleet.settings["without"] = without
    for i, group in enumerate((PREFILL, PREFILL, 1)):
        assign(filled.handle, i, group, 0.0)
    for i, tokens in enumerate((3000, 1000)):
        enqueue(filled.handle, filled.request(1, tokens, 10), i, 0.0)
    r = filled.request(1, 1000, 10)
    assert place(filled.handle, r, 0.0)
    assert filled.fleet.requests["instance"][r] == expected


@pytest.mark.parametrize(
    ("promised", "idle", "expected"), [(25_000, 0, (1, PROMOTED)), (25_001, 0, (2, OWN)), (0, 1, (2, OWN))]
)
def test_a_spare_decode_instance_drains_while_nothing_is_idle(hand, promised, idle, expected):
    """I17: of 100,000 KV tokens an instance is spare with up to 25,000 promised: its tier asks the tighter one first.

    With an instance idle the tier keeps to its own.
    """
    filled = hand(3 + idle, pd=True)
    for i, group in enumerate((PREFILL, 0, 1)):
        assign(filled.handle, i, group, 0.0)
    filled.fleet.instances["committed_tokens"][2] = promised
    r = filled.request(1, 1000, 10)
    assert place(filled.handle, r, 0.0)
    record = filled.fleet.requests[r]
    assert (record["decode_instance"], record["rung"]) == expected


@pytest.mark.parametrize("slowness", [1.0, 1.04, 8.0])
def test_who_may_do_either_side_is_left_to_the_side_that_has_nobody_else(hand, slowness):
    """Instance 0 may decode only, 1 may do both: 0 decodes, however slow it is, or nobody could prefill."""
    filled = hand(2, pd=True)
    filled.fleet.instances["role"] = (DECODE_ONLY, EITHER)
    filled.fleet.settings["num_roles"] = 1
    believe_slowness(filled.handle, 0, slowness)
    r = filled.request(1, 1000, 10)
    assert place(filled.handle, r, 0.0)
    assert filled.fleet.requests["decode_instance"][r] == 0
    assert filled.fleet.requests["instance"][r] == 1


def test_who_may_do_either_side_decodes_what_those_bound_to_it_are_too_slow_for(hand):
    """Of two that may do both one decodes: the instance bound to decodes can't keep 20 ms at an eighth of the speed."""
    filled = hand(3, pd=True)
    filled.fleet.instances["role"] = (DECODE_ONLY, EITHER, EITHER)
    filled.fleet.settings["num_roles"] = 1
    believe_slowness(filled.handle, 0, 8.0)
    r = filled.request(0, 1000, 10)
    assert place(filled.handle, r, 0.0)
    assert filled.fleet.requests["decode_instance"][r] != 0
    assert filled.fleet.group_size.tolist() == [1, 0, 1, 1]
