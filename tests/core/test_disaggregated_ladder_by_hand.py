"""The ladder with prefill apart from decode, worked out by hand (I17); the profile is that of linear_profile.py.

A prompt of 1,000 tokens takes 15 ms on a prefill instance, its transfer 1 ms, a decode over 1,000 KV tokens 5.11 ms.
"""

from __future__ import annotations

import pytest

from polyslo.core.belief import observe_first_token, observe_iteration_end, observe_transfer_ended
from polyslo.core.ladder import place, place_or_pend
from polyslo.core.scaling import assign
from polyslo.core.state import (
    DISPATCH,
    FIRST_TOKEN,
    FROM_PENDING,
    MEMORY,
    OWN,
    PENDING,
    PROMOTED,
    SCALED_UP,
    TAKEN_OVER,
)
from polyslo.policies.decide import on_finished, on_iteration_settled, on_prefilled, on_progress
from polyslo.policies.table import POLYSERVE

PREFILL, IDLE = 2, 3  # groups, with two tiers


def _prefilled(filled, r, now_s):
    """A request's prefill ends with its prefill instance's iteration; its KV is on the way."""
    i = int(filled.fleet.requests["instance"][r])
    observe_iteration_end(filled.handle, i)
    observe_first_token(filled.handle, i, r)
    on_prefilled(POLYSERVE, filled.handle, r, now_s)
    on_iteration_settled(POLYSERVE, filled.handle, i, now_s, now_s)


def _arrived(filled, r, now_s):
    """Its KV arrives where it will decode."""
    source = int(filled.fleet.requests["instance"][r])
    observe_transfer_ended(filled.handle, r, int(filled.fleet.requests["decode_instance"][r]), now_s)
    on_progress(POLYSERVE, filled.handle, source, now_s)


def _decoded(filled, i, now_s, ended=()):
    """An iteration of a decode instance ends, and with it requests, each with two tokens."""
    observe_iteration_end(filled.handle, i)
    for r in ended:
        on_finished(POLYSERVE, filled.handle, i, r, 2, now_s)
    on_iteration_settled(POLYSERVE, filled.handle, i, now_s, now_s)


def _sides(filled, r):
    record = filled.fleet.requests[r]
    return int(record["instance"]), int(record["decode_instance"]), int(record["rung"])


@pytest.mark.parametrize(
    ("tight_s", "ttft_s", "taken"), [(0.00612, 1.0, True), (0.00611, 1.0, False), (0.00612, 0.016, False)]
)
def test_a_tier_without_decode_instances_takes_over_a_looser_one(hand, tight_s, ttft_s, taken):
    """I17: a resident of 9,000 + 2,000 tokens holds 10,999 at its end and the newcomer's 1,000 + 100 are gone by then.

    The bound is 5 + 0.02 + 1.0999 = 6.1199 ms: a tier of 6.12 ms takes the instance, one of 6.11 ms does not.
    For a TTFT of 16 ms it is given back: KV that is there at 16 ms makes a second token at 28.2, due at 22.12.
    """
    filled = hand(2, tpots_s=(tight_s, 0.05), pd=True)
    assign(filled.handle, 0, PREFILL, 0.0)
    assign(filled.handle, 1, 1, 0.0)
    assert place(filled.handle, filled.request(1, 9000, 2000), 0.0)
    r = filled.request(0, 1000, 100, ttft_s=ttft_s)
    assert place(filled.handle, r, 0.0) == taken
    instances = filled.fleet.instances
    if not taken:
        assert (instances["group"][1], filled.fleet.requests["decode_instance"][r]) == (1, -1)
        return
    assert _sides(filled, r) == (0, 1, TAKEN_OVER)
    assert (instances["group"][1], instances["num_own"][1], instances["num_residents"][1]) == (0, 1, 2)
    assert instances["budget_s"][1] == pytest.approx(tight_s)


def test_an_instance_goes_to_guests_and_then_back_to_the_pool(hand):
    """I17: tier 0's decode instance, its own request ended, goes to its guest's tier 1; empty, to the pool.

    15 ms: the own request is prefilled; 16: it decodes, to 21.11. 30 ms: so is the guest, whose KV is there at 31 ms,
    when nobody is left to prefill: that instance goes back, too.
    """
    filled = hand(2, pd=True)
    own, guest = filled.request(0, 1000, 2), filled.request(1, 1000, 2)
    assert place(filled.handle, own, 0.0)
    assert place(filled.handle, guest, 0.0)
    p, d, rung = _sides(filled, own)
    assert rung == SCALED_UP
    assert _sides(filled, guest) == (p, d, PROMOTED)
    assert filled.fleet.requests["predicted_first_s"][[own, guest]] == pytest.approx([0.015, 0.03])
    instances = filled.fleet.instances
    _prefilled(filled, own, 0.015)
    _arrived(filled, own, 0.016)
    assert instances["iteration_end_s"][d] == pytest.approx(0.02111)
    assert (instances["group"][d], instances["num_own"][d], instances["budget_s"][d]) == (0, 1, 0.02)
    _decoded(filled, d, 0.02111, ended=[own])
    assert (instances["group"][d], instances["num_own"][d], instances["budget_s"][d]) == (1, 1, 0.05)
    _prefilled(filled, guest, 0.03)
    assert instances["group"][p] == PREFILL, "its KV is still there"
    _arrived(filled, guest, 0.031)
    assert (instances["group"][p], instances["group"][d]) == (IDLE, 1)
    assert instances["iteration_end_s"][d] == pytest.approx(0.03611)
    _decoded(filled, d, 0.03611, ended=[guest])
    assert filled.fleet.group_size.tolist() == [0, 0, 0, 2]
    for name in ("kv_tokens", "committed_tokens", "num_residents", "num_own"):
        assert not instances[name].any(), name


def test_a_pending_request_is_placed_when_the_decode_side_has_room(hand):
    """I17: two of 1,000 + 60,000 tokens don't fit into 100,000; the first ends, sooner than expected, at 21.11 ms.

    At 16 ms the prefill instance has gone back to the pool; the second claims it, to be prefilled by 36.11 ms.
    """
    filled = hand(2, pd=True)
    first, second = filled.request(1, 1000, 60_000), filled.request(1, 1000, 60_000)
    assert place(filled.handle, first, 0.0)
    p, d, _ = _sides(filled, first)
    place_or_pend(filled.handle, second, 0.0)
    assert filled.fleet.requests["stage"][second] == PENDING
    assert filled.fleet.requests["reasons"][second] == 1 << MEMORY
    _prefilled(filled, first, 0.015)
    _arrived(filled, first, 0.016)
    assert (filled.fleet.instances["group"][p], filled.fleet.requests["stage"][second]) == (IDLE, PENDING)
    _decoded(filled, d, 0.02111, ended=[first])
    assert _sides(filled, second) == (p, d, FROM_PENDING)
    assert filled.fleet.counters[0, [SCALED_UP, FROM_PENDING]].tolist() == [1, 1]
    assert filled.fleet.requests["predicted_first_s"][second] == pytest.approx(0.03611)
    assert filled.fleet.group_size.tolist() == [0, 1, 1, 0]
    assert not filled.fleet.pending_size.any()


def test_a_pending_request_is_placed_when_the_prefill_side_has_room(hand):
    """I17: a prefill that is due at 37.5 ms would wait for one of 45 + 15 ms; it is placed when that has ended sooner.

    Alone it takes 15 of 60 ms and gives up half of the rest. At 15 ms, news: the 4,000 tokens before it have ended, so
    it takes until 30.
    """
    filled = hand(2, pd=True)
    for i, group in enumerate((PREFILL, 1)):
        assign(filled.handle, i, group, 0.0)
    first, second = filled.request(1, 4000, 100), filled.request(1, 1000, 100, ttft_s=0.06)
    assert place(filled.handle, first, 0.0)
    assert filled.fleet.requests["predicted_first_s"][first] == pytest.approx(0.045)
    place_or_pend(filled.handle, second, 0.0)
    assert filled.fleet.requests["stage"][second] == PENDING
    assert filled.fleet.requests["reasons"][second] == 1 << FIRST_TOKEN
    _prefilled(filled, first, 0.015)
    assert _sides(filled, second) == (0, 1, FROM_PENDING)
    assert filled.fleet.requests["predicted_first_s"][second] == pytest.approx(0.03)


@pytest.mark.parametrize(("ttft_s", "placed"), [(0.1128, False), (0.1129, True)])
def test_the_decode_side_is_asked_again_for_the_prefill_that_was_claimed(hand, ttft_s, placed):
    """I17: 9,000 tokens take 95 ms at best, and on the instance claimed for them two iterations of 50 ms.

    The decode side gives the first token 1 + 2 x 5.911 ms later: 107.8 ms was to be, 112.822 ms it is. A TTFT between
    the two is refused, though the prefill keeps its own due time (103.9 ms: half of what 95 leave), and both go back.
    """
    filled = hand(2, pd=True)
    filled.fleet.settings["first_from_decode"] = 1
    r = filled.request(1, 9000, 10, ttft_s=ttft_s)
    assert place(filled.handle, r, 0.0) == placed
    assert filled.fleet.requests["prefill_due_s"][r] >= 0.1
    assert filled.fleet.requests["reasons"][r] == (0 if placed else 1 << FIRST_TOKEN)
    assert filled.fleet.group_size.tolist() == ([0, 1, 1, 0] if placed else [0, 0, 0, 2])
    assert filled.fleet.requests["predicted_first_s"][r] == pytest.approx(0.1 if placed else 0.0)
    assert [r for kind, r, _ in filled.actions() if kind == DISPATCH] == ([r] if placed else [])


@pytest.mark.parametrize(
    ("ttft_s", "host", "due_s", "rung", "fits"),
    [(0.1, 1, 0.049, OWN, False), (0.107, 1, 0.056, OWN, True), (0.1, 0, 0.0675, PROMOTED, True)],
)
def test_nobody_pushes_a_prefill_past_its_hand_over(hand, ttft_s, host, due_s, rung, fits):
    """I17: from 10 ms on, 3,000 tokens end at 45 ms; with the newcomer's 1,000 beside them at 55 ms.

    A TTFT of 100 ms would let them end at 100 - (100 - 35) / 2 = 67.5 ms. But the decode instance may be as slow as
    50 ms: only if they end by 100 + 50 - 1 - 2 x 50 = 49 ms is the second token in time whoever else it takes, and the
    newcomer is refused; with a TTFT of 107 ms, 56 ms, it is not. An instance of tier 0 keeps to 20 ms: 109 ms.
    """
    filled = hand(2, pd=True)
    for i, group in enumerate((PREFILL, host)):
        assign(filled.handle, i, group, 0.0)
    filled.fleet.instances["busy"][0] = 1
    filled.fleet.instances["iteration_end_s"][0] = 0.01
    promised, newcomer = filled.request(1, 3000, 10, ttft_s=ttft_s), filled.request(1, 1000, 10, ttft_s=1.0)
    assert place(filled.handle, promised, 0.0)
    assert _sides(filled, promised) == (0, 1, rung)
    assert filled.fleet.requests["predicted_first_s"][promised] == pytest.approx(0.045)
    assert filled.fleet.requests["prefill_due_s"][promised] == pytest.approx(due_s)
    assert place(filled.handle, newcomer, 0.0) == fits
    assert filled.fleet.requests["reasons"][newcomer] == (0 if fits else 1 << FIRST_TOKEN)
    if fits:
        assert filled.fleet.requests["predicted_first_s"][newcomer] == pytest.approx(0.055)


@pytest.mark.parametrize(("cold_start_s", "chosen", "first_s"), [(0.28, 0, 0.265), (0.2, 4, 0.215)])
def test_who_starts_later_than_the_queue_ends_is_not_waited_for(hand, cold_start_s, chosen, first_s):
    """I17: the prefill instance is busy until 250 ms and gives 1,000 tokens' first at 265 ms, two thirds of the TTFT.

    So the last idle instance is claimed: after a start of 200 ms it gives it at 215 ms. After one of 280 ms it would at
    295 ms: the request stays with the queue, and the instance goes back.
    """
    filled = hand(5, pd=True)
    for i, group in enumerate((PREFILL, 1, 1, 1)):
        assign(filled.handle, i, group, 0.0)
    filled.fleet.settings["cold_start_s"] = cold_start_s
    filled.fleet.instances["busy"][0] = 1
    filled.fleet.instances["iteration_end_s"][0] = 0.25
    r = filled.request(1, 1000, 10, ttft_s=0.4)
    assert place(filled.handle, r, 0.0)
    assert int(filled.fleet.requests["instance"][r]) == chosen
    assert filled.fleet.requests["predicted_first_s"][r] == pytest.approx(first_s)
    assert filled.fleet.group_size[IDLE] == (1 if chosen == 0 else 0)
