"""The ladder, worked out by hand (I17).

An iteration takes 5 ms + 0.01 ms a batch token + 0.0001 ms a KV token. Tiers are 20 ms and 50 ms, so an empty
instance prefills 1,500 or 4,500 tokens an iteration, and a prediction counts full iterations of 20 or 50 ms.
"""

from __future__ import annotations

import numpy as np
import pytest

from polyslo.core.belief import enqueue, observe_finished, observe_first_token, observe_iteration_end, reserve
from polyslo.core.ladder import place, place_or_pend, retry_pending
from polyslo.core.pending import push
from polyslo.core.scaling import assign
from polyslo.core.state import (
    DISPATCH,
    FIRST_TOKEN,
    GRADIENT,
    MEMORY,
    OWN,
    PENDING,
    PROMOTED,
    RELEGATE,
    SCALED_UP,
    SPREADING,
    TAKEN_OVER,
)
from polyslo.policies.decide import on_iteration_settled
from polyslo.policies.table import POLYSERVE


def test_the_first_request_claims_an_idle_instance(hand):
    """I17: tier 1 owns nothing, so one of three instances is claimed; its first token is due in one full 50 ms."""
    filled = hand(3)
    r = filled.request(1, 1000, 100)
    assert place(filled.handle, r, 0.0)
    record = filled.fleet.requests[r]
    assert record["rung"] == SCALED_UP
    assert record["predicted_first_s"] == pytest.approx(0.05)
    assert filled.fleet.group_size.tolist() == [0, 1, 0, 2]
    assert filled.fleet.instances["committed_tokens"][record["instance"]] == 1100
    assert filled.fleet.instances["iteration_end_s"][record["instance"]] == pytest.approx(0.015)


def test_the_own_tier_fills_its_most_loaded_instance_first(hand):
    """I17: of two instances of the tier the loaded one takes the second request; together they commit 2,200."""
    filled = hand(3)
    for i in (0, 1):
        assign(filled.handle, i, 1, 0.0)
    first, second = filled.request(1, 1000, 100), filled.request(1, 1000, 100)
    assert place(filled.handle, first, 0.0)
    assert place(filled.handle, second, 0.0)
    record = filled.fleet.requests
    assert record["instance"][first] == record["instance"][second]
    assert record["rung"][second] == OWN
    # The running iteration ends at 15 ms; the next one, which prefills it, is counted at its full 50 ms.
    assert record["predicted_first_s"][second] == pytest.approx(0.015 + 0.05)
    assert sorted(filled.fleet.instances["committed_tokens"].tolist()) == [0, 0, 2200]


@pytest.mark.parametrize(
    ("queued", "idle", "pending", "without", "expected"),
    [
        ((0,), 0, False, 0, 1),
        ((0, 1), 0, False, 0, 2),
        ((0, 1, 2), 0, False, 0, 2),
        ((0,), 0, False, 1 << SPREADING, 0),
        ((0,), 0, True, 0, 0),
        ((0,), 1, False, 0, 0),
        ((), 0, False, 1 << GRADIENT, 2),
        ((0, 1), 0, False, 1 << GRADIENT, 2),
    ],
)
def test_prompts_are_spread_while_decodes_are_packed(hand, queued, idle, pending, without, expected):
    """I17: three instances of a tier with 6,000, 4,000 and 2,000 tokens, some of them with prompts that wait.

    With none idle the most loaded without a queue is taken, where all have one the least loaded. With one of four
    idle, with a request of another tier pending, or without spreading it is the most loaded, as in the paper.
    """
    filled = hand(3 + idle)
    filled.fleet.settings["without"] = without
    for i, tokens in enumerate((6000, 4000, 2000)):
        assign(filled.handle, i, 1, 0.0)
        if i in queued:
            enqueue(filled.handle, filled.request(1, tokens, 10), i, 0.0)
        else:
            reserve(filled.handle, filled.request(1, tokens, 10), i, 1)
    if pending:
        push(filled.handle, 0, filled.request(0, 1000, 10))
    r = filled.request(1, 1000, 10)
    assert place(filled.handle, r, 0.0)
    assert filled.fleet.requests["instance"][r] == expected
    assert filled.fleet.requests["rung"][r] == OWN


def test_a_full_instance_is_passed_over_for_memory(hand):
    """I17: two requests of 1,000 + 60,000 peak at 122,000 KV tokens together, above 100,000: memory refuses.

    One of three instances is idle, more than a fifth: requests are packed, so the fuller one is asked first.
    """
    filled = hand(3)
    for i in (0, 1):
        assign(filled.handle, i, 1, 0.0)
    first, second = filled.request(1, 1000, 60_000), filled.request(1, 1000, 60_000)
    assert place(filled.handle, first, 0.0)
    assert place(filled.handle, second, 0.0)
    record = filled.fleet.requests
    assert record["instance"][first] != record["instance"][second]
    assert record["reasons"][second] == 1 << MEMORY


def test_promotion_goes_to_the_nearest_tighter_tier(hand):
    """I17: tier 2 owns nothing, tiers 0 and 1 own one instance each: tier 1's takes it, before the idle pool."""
    filled = hand(3, tpots_s=(0.02, 0.05, 0.1))
    assign(filled.handle, 0, 0, 0.0)
    assign(filled.handle, 1, 1, 0.0)
    r = filled.request(2, 1000, 100)
    assert place(filled.handle, r, 0.0)
    assert filled.fleet.requests["instance"][r] == 1
    assert filled.fleet.requests["rung"][r] == PROMOTED
    assert filled.fleet.instances["num_own"][1] == 0  # a guest


def test_promotion_can_be_switched_off(hand):
    """I17: without promotion the same request claims the idle instance."""
    filled = hand(3, tpots_s=(0.02, 0.05, 0.1))
    filled.fleet.settings["promote"] = 0
    assign(filled.handle, 0, 0, 0.0)
    assign(filled.handle, 1, 1, 0.0)
    r = filled.request(2, 1000, 100)
    assert place(filled.handle, r, 0.0)
    assert filled.fleet.requests["instance"][r] == 2
    assert filled.fleet.requests["rung"][r] == SCALED_UP


def test_a_tight_request_waits_and_is_relegated_once_hopeless(hand):
    """I17: behind a prompt of 15 ms another takes 15 ms, of 29 ms TTFT: pending, and hopeless after 14 ms."""
    filled = hand(1)
    first = filled.request(1, 1000, 1)
    assert place(filled.handle, first, 0.0)
    r = filled.request(1, 1000, 100, ttft_s=0.029)
    place_or_pend(filled.handle, r, 0.0)
    assert filled.fleet.requests["stage"][r] == PENDING
    assert filled.fleet.requests["reasons"][r] == 1 << FIRST_TOKEN
    assert filled.fleet.group_size.tolist() == [0, 1, 0, 0]
    retry_pending(filled.handle, 0, 0.0139)
    assert filled.fleet.requests["stage"][r] == PENDING
    retry_pending(filled.handle, 0, 0.0141)
    assert filled.fleet.pending_size.tolist() == [0, 0, 1]  # it waits for an instance that nobody needs
    observe_iteration_end(filled.handle, 0)
    observe_first_token(filled.handle, 0, first)
    observe_finished(filled.handle, 0, first, 1)
    on_iteration_settled(POLYSERVE, filled.handle, 0, 0.015, 0.015)
    assert filled.fleet.pending_size.tolist() == [0, 0, 0]
    kinds = [kind for kind, request, _ in filled.actions() if request == r]
    assert kinds == [RELEGATE, DISPATCH]
    assert filled.fleet.instances["group"][0] == 3


def test_an_iteration_is_cut_for_a_first_token_in_time(hand):
    """I17: due at 35 ms, a prompt is in the iteration that begins at 15 ms; a full one would end at 65 ms.

    It holds a decode over 1,000 KV tokens, 5 + 0.01 + 0.1 ms, and the prompt, 10 ms: 4.89 ms of 20 are left, which is
    489 tokens of the next prompt's 2,500.
    """
    filled = hand(1)
    first = filled.request(1, 1000, 100)
    assert place(filled.handle, first, 0.0)
    tight, loose = filled.request(1, 1000, 100, ttft_s=0.035), filled.request(1, 2500, 100)
    assert place(filled.handle, loose, 0.0)
    assert place(filled.handle, tight, 0.0)
    assert filled.fleet.requests["predicted_first_s"][tight] == pytest.approx(0.035)
    observe_iteration_end(filled.handle, 0)
    observe_first_token(filled.handle, 0, first)
    on_iteration_settled(POLYSERVE, filled.handle, 0, 0.015, 0.015)
    assert filled.fleet.instances["chunk"][0] == 1489
    assert filled.fleet.instances["iteration_end_s"][0] == pytest.approx(0.035)
    assert filled.fleet.requests["remaining_tokens"][[tight, loose]].tolist() == [0, 2011]


def test_a_tier_without_instances_takes_over_a_looser_one(hand):
    """I17: one instance, owned by tier 1 and decoding; tier 0 takes it and its iterations now keep to 20 ms."""
    filled = hand(1)
    first, second = filled.request(1, 1000, 100), filled.request(0, 1000, 100)
    assert place(filled.handle, first, 0.0)
    observe_iteration_end(filled.handle, 0)
    observe_first_token(filled.handle, 0, first)
    on_iteration_settled(POLYSERVE, filled.handle, 0, 0.015, 0.015)
    assert place(filled.handle, second, 0.015)
    assert filled.fleet.requests["rung"][second] == TAKEN_OVER
    assert filled.fleet.instances["group"][0] == 0
    assert filled.fleet.instances["budget_s"][0] == 0.02


def test_an_instance_is_handed_over_and_then_released(hand):
    """I17: a tier 0 instance whose own request ends goes to its guest's tier 1, and to the pool once empty.

    Iteration 1 prefills the own 1,000 tokens, iteration 2 the guest's beside one decode, whose second and last
    token it brings; iteration 3 ends the guest's second and last token.
    """
    filled = hand(2)
    own, guest = filled.request(0, 1000, 2), filled.request(1, 1000, 2)
    assert place(filled.handle, own, 0.0)
    assert place(filled.handle, guest, 0.0)
    instances, i = filled.fleet.instances, int(filled.fleet.requests["instance"][own])
    assert filled.fleet.requests["instance"][guest] == i
    assert filled.fleet.requests["rung"][guest] == PROMOTED
    observe_iteration_end(filled.handle, i)
    observe_first_token(filled.handle, i, own)
    on_iteration_settled(POLYSERVE, filled.handle, i, 0.015, 0.015)
    assert (instances["group"][i], instances["num_decodes"][i], instances["chunk"][i]) == (0, 1, 1000)
    # 5 ms + 0.01 ms * (1 + 1,000) + 0.0001 ms * 1,000
    assert instances["iteration_end_s"][i] == pytest.approx(0.015 + 0.01511)
    observe_iteration_end(filled.handle, i)
    observe_first_token(filled.handle, i, guest)
    observe_finished(filled.handle, i, own, 2)
    on_iteration_settled(POLYSERVE, filled.handle, i, 0.03011, 0.03011)
    assert (instances["group"][i], instances["num_own"][i]) == (1, 1)
    assert instances["kv_tokens"][i] == 1000
    observe_iteration_end(filled.handle, i)
    assert instances["kv_tokens"][i] == 1001
    observe_finished(filled.handle, i, guest, 2)
    on_iteration_settled(POLYSERVE, filled.handle, i, 0.04, 0.04)
    assert filled.fleet.group_size.tolist() == [0, 0, 0, 2]
    assert not np.any([instances[name] for name in ("kv_tokens", "committed_tokens", "num_residents")])


def _end_with_first_token(filled, r):
    """Report that a request on instance 0 got its first and only token after 15 ms."""
    observe_iteration_end(filled.handle, 0)
    observe_first_token(filled.handle, 0, r)
    observe_finished(filled.handle, 0, r, 1)
    on_iteration_settled(POLYSERVE, filled.handle, 0, 0.015, 0.015)


def test_a_pending_request_is_placed_when_its_tier_has_room(hand):
    """I17: two requests of 1,000 + 60,000 do not fit together; the second is placed when the first has ended."""
    filled = hand(1)
    first, second = filled.request(1, 1000, 60_000), filled.request(1, 1000, 60_000, ttft_s=5.0)
    assert place(filled.handle, first, 0.0)
    place_or_pend(filled.handle, second, 0.0)
    assert filled.fleet.requests["stage"][second] == PENDING
    _end_with_first_token(filled, first)
    assert filled.fleet.requests["instance"][second] == 0
    assert not filled.fleet.pending_size.any()


def test_a_pending_request_gets_an_instance_that_goes_back_to_the_pool(hand):
    """I5, I17: a tier 0 request waits for tier 1's only instance; when that is released it must be placed."""
    filled = hand(1)
    first, second = filled.request(1, 1000, 1), filled.request(0, 1000, 100, ttft_s=5.0)
    assert place(filled.handle, first, 0.0)
    place_or_pend(filled.handle, second, 0.0)
    assert filled.fleet.requests["stage"][second] == PENDING
    _end_with_first_token(filled, first)
    assert filled.fleet.pending_size.tolist() == [0, 0, 0]
