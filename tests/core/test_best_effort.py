"""What becomes of requests that have missed their SLO (I17); the profile is that of test_ladder_by_hand.py."""

from __future__ import annotations

import numpy as np
import pytest

from polyslo.core.belief import emitted_tokens, enqueue, observe_finished, observe_first_token, observe_iteration_end
from polyslo.core.ladder import place, place_or_pend, retry_pending
from polyslo.core.ledger import add_resident
from polyslo.core.scaling import assign
from polyslo.core.state import (
    DECODING,
    DISPATCH,
    FALLBACK,
    NO_RUNG,
    NONE,
    PENDING,
    QUEUED,
    REFUSE,
    REFUSED,
    RELEGATE,
    RELEGATED,
    WITHDRAW,
)
from polyslo.policies.decide import on_arrival, on_iteration_settled, on_withdrawn
from polyslo.policies.table import POLYSERVE

IDLE, BEST_EFFORT = 3, 2  # group and queue, with two tiers


def _hopeless(filled):
    """Enter a request that alone takes 15 ms, of whose 40 ms TTFT 14 are left when it is decided."""
    r = filled.request(1, 1000, 100, ttft_s=0.04)
    place_or_pend(filled.handle, r, 0.026)
    filled.actions()
    retry_pending(filled.handle, 0, 0.026)
    return r


def _token(filled, now_s, first_of=NONE, last_of=NONE):
    """Report the end of an iteration of instance 0, and whose first or last token it brought."""
    observe_iteration_end(filled.handle, 0)
    if first_of != NONE:
        observe_first_token(filled.handle, 0, first_of)
    if last_of != NONE:
        observe_finished(filled.handle, 0, last_of, 1)
    on_iteration_settled(POLYSERVE, filled.handle, 0, now_s, now_s)


def test_best_effort_work_runs_yields_at_once_and_resumes(hand):
    """I17, I21: first token at 41 ms, second at 46.11; claimed at 47 ms; resumed at 66.2201 ms with both tokens.

    5 + 10 ms for the prompt, 5 + 0.01 + 0.1 ms for a token over 1,000 KV tokens. The claim is for a prompt of 1,000
    with one token: 15 ms from 51.2201 ms on, when the iteration then running ends. Then prompt and 2 tokens are
    prefilled again, 5 + 10.02 ms, which brings the third.
    """
    filled = hand(1)
    r = _hopeless(filled)
    instances, requests = filled.fleet.instances, filled.fleet.requests
    assert filled.actions()[-2:] == [(RELEGATE, r, NONE), (DISPATCH, r, 0)]
    assert (instances["group"][0], requests["stage"][r]) == (IDLE, QUEUED)
    assert instances["iteration_end_s"][0] == pytest.approx(0.041)
    _token(filled, 0.041, first_of=r)
    assert requests["stage"][r] == DECODING
    assert instances["iteration_end_s"][0] == pytest.approx(0.04611)
    _token(filled, 0.04611)
    filled.actions()
    urgent = filled.request(1, 1000, 1, arrival_s=0.047)
    assert place(filled.handle, urgent, 0.047)
    kinds = [action for action in filled.actions() if action[0] in (WITHDRAW, DISPATCH)]
    assert kinds == [(WITHDRAW, r, 0), (DISPATCH, urgent, 0)]
    assert requests["stage"][r] == RELEGATED
    assert (requests["emitted_tokens"][r], requests["remaining_tokens"][r]) == (2, 1002)
    assert (instances["num_residents"][0], instances["num_decodes"][0], instances["kv_tokens"][0]) == (1, 0, 0)
    assert (instances["group"][0], instances["queued_tokens"][0]) == (1, 1000)
    _token(filled, 0.0512201)
    assert instances["iteration_end_s"][0] == pytest.approx(0.0662201)
    _token(filled, 0.0662201, first_of=urgent, last_of=urgent)
    assert filled.actions()[-1] == (DISPATCH, r, 0)
    assert instances["group"][0] == IDLE
    assert instances["iteration_end_s"][0] == pytest.approx(0.0662201 + 0.01502)
    _token(filled, 0.0812401, first_of=r)
    assert emitted_tokens(filled.handle, 0, r) == 3


@pytest.mark.parametrize(("ratio", "is_hosted"), [(0.022, True), (0.021, False), (0.0, False)])
def test_a_tiers_instance_hosts_best_effort_work_until_it_is_needed(hand, ratio, is_hosted):
    """I17: the tier's own request and the other one are promised 2,200 of 100,000 KV tokens, together 5.24 of 250 ms.

    What is hosted is no load, and no own request of the tier. It leaves when the next one comes.
    """
    filled = hand(1, tpots_s=(0.02, 0.25))
    filled.fleet.settings["spare_ratio"] = ratio
    own = filled.request(1, 1000, 100)
    assert place(filled.handle, own, 0.0)
    _token(filled, 0.015, first_of=own)
    r = _hopeless(filled)
    assert filled.actions()[-1] == (RELEGATE, r, NONE)
    _token(filled, 0.03)
    assert filled.actions() == ([(DISPATCH, r, 0)] if is_hosted else [])
    instance = filled.fleet.instances[0]
    assert (instance["committed_tokens"], instance["num_own"], instance["num_best_effort"]) == (1100, 1, is_hosted)
    if not is_hosted:
        return
    urgent = filled.request(1, 1000, 1, arrival_s=0.031)
    assert place(filled.handle, urgent, 0.031)
    assert filled.actions() == [(WITHDRAW, r, 0), (DISPATCH, urgent, 0)]
    assert filled.fleet.pending_size[BEST_EFFORT] == 1


def test_a_cold_fleet_does_no_best_effort_work(hand):
    """I17: with cold starts the same request is set aside, and the second, idle instance is left alone."""
    filled = hand(2)
    filled.fleet.settings["cold_start_s"] = 2.0
    r = _hopeless(filled)
    assert filled.actions() == [(RELEGATE, r, NONE)]
    assert filled.fleet.pending_size[BEST_EFFORT] == 1
    assert filled.fleet.group_size.tolist() == [0, 1, 0, 1]  # the one claimed for it is starting


@pytest.mark.parametrize("relegate", [True, False])
def test_refusing_answers_and_never_relegates(hand, relegate):
    """I17: asked to refuse, the ladder answers REFUSE where it would relegate, and keeps nothing of the request."""
    filled = hand(1, relegate=relegate)
    filled.fleet.settings["refuse"] = 1
    r = _hopeless(filled)
    assert filled.actions() == [(REFUSE, r, NONE)]
    assert filled.fleet.requests["stage"][r] == REFUSED
    assert not filled.fleet.pending_size.any()


def test_what_an_engine_gives_back_is_refused_too(hand):
    """I17: a queued prompt that its engine gave back as hopeless is answered with REFUSE, and the instance is free."""
    filled = hand(1)
    filled.fleet.settings["refuse"] = 1
    r = filled.request(1, 1000, 100)
    assert place(filled.handle, r, 0.0)
    filled.actions()
    # The engine has not begun it.
    filled.fleet.requests["remaining_tokens"][r] = filled.fleet.instances["queued_tokens"][0] = 1000
    filled.fleet.instances["kv_tokens"] = 0
    on_withdrawn(POLYSERVE, filled.handle, 0, r, 0.6)
    assert filled.actions() == [(REFUSE, r, NONE)]
    assert not np.any([filled.fleet.instances[name] for name in ("kv_tokens", "num_residents", "queued_tokens")])


def test_without_relegation_a_hopeless_request_waits_for_nobody(hand):
    """I17: neither relegated nor refused, it is served late, by an instance claimed for it."""
    filled = hand(1, relegate=False)
    r = _hopeless(filled)
    assert filled.actions()[-1] == (DISPATCH, r, 0)
    assert filled.fleet.requests["stage"][r] == QUEUED != PENDING
    assert filled.fleet.requests["rung"][r] == FALLBACK
    assert filled.fleet.instances["group"][0] == 1


def _send(filled, r, i):
    add_resident(filled.handle, i, r, 1)
    enqueue(filled.handle, r, i, 0.0)


@pytest.mark.parametrize(("groups", "left", "end_s"), [((0, 1), 0, 0.03511), ((1, 0), 11, 0.035)])
def test_a_hopeless_request_is_served_late_where_least_is_queued(hand, groups, left, end_s):
    """I17: TTFT 14 ms, alone it takes 15: late from the start, and sent to the instance with 500 tokens queued.

    The other one, of the other tier, has 3,000. With the earliest deadline it goes first: from 15 ms on, 5 + 0.01 +
    0.1 ms for a decode over 1,000 KV tokens, 10 ms for its prompt and 5 for the 500: its first token comes at 35.11 ms.
    Where it is tier 0's instance that has less to do, 20 ms leave 489 of the 500 tokens.
    """
    filled = hand(2, relegate=False)
    for i, group in enumerate(groups):
        assign(filled.handle, i, group, 0.0)
        _send(filled, filled.request(1, 1000, 100), i)
    long, short = filled.request(1, 3000, 100), filled.request(1, 500, 100)
    _send(filled, long, 0)
    _send(filled, short, 1)
    filled.actions()
    r = filled.request(1, 1000, 100, ttft_s=0.014)
    place_or_pend(filled.handle, r, 0.0)
    assert filled.fleet.requests["stage"][r] == PENDING
    retry_pending(filled.handle, 0, 0.0)
    requests, instances = filled.fleet.requests, filled.fleet.instances
    assert filled.actions() == [(DISPATCH, r, 1)]
    assert (requests["rung"][r], requests["predicted_first_s"][r]) == (FALLBACK, np.inf)
    assert filled.fleet.counters[0].tolist() == [1 if rung == FALLBACK else 0 for rung in range(8)]
    observe_iteration_end(filled.handle, 1)
    observe_first_token(filled.handle, 1, 1)
    on_iteration_settled(POLYSERVE, filled.handle, 1, 0.015, 0.015)
    assert requests["remaining_tokens"][[r, short]].tolist() == [0, left]
    assert instances["iteration_end_s"][1] == pytest.approx(end_s)


def test_a_hopeless_request_waits_where_nobody_has_room(hand):
    """I17: the only instance may hold one request: the hopeless one is served when that one ends, at 15 ms."""
    filled = hand(1, relegate=False, max_residents=1)
    assign(filled.handle, 0, 1, 0.0)
    first = filled.request(1, 1000, 1)
    _send(filled, first, 0)
    r = filled.request(1, 1000, 100, ttft_s=0.014)
    place_or_pend(filled.handle, r, 0.0)
    retry_pending(filled.handle, 0, 0.0)
    assert filled.fleet.requests["stage"][r] == PENDING
    _token(filled, 0.015, first_of=first, last_of=first)
    assert (filled.fleet.requests["instance"][r], filled.fleet.requests["rung"][r]) == (0, FALLBACK)
    assert filled.fleet.instances["iteration_end_s"][0] == pytest.approx(0.03)


def test_what_asks_for_no_slo_waits_behind_what_has_lost_its_own(hand):
    """I17: on one instance that a tier owns both wait, the relegated one first; what it emits teaches its tier nothing.

    The tier's request leaves at 31 ms: the relegated prompt begins then, the other one behind it in the same queue.
    """
    filled = hand(1)
    own = filled.request(1, 1000, 2)
    assert place(filled.handle, own, 0.0)
    asked = filled.request(1, 1000, 1, ttft_s=3600.0)
    filled.fleet.requests["without_slo"][asked] = 1
    on_arrival(POLYSERVE, filled.handle, asked, 0.001)
    _token(filled, 0.015, first_of=own)
    r = _hopeless(filled)
    assert filled.fleet.pending[BEST_EFFORT, :2].tolist() == [r, asked]
    filled.actions()
    _token(filled, 0.031, last_of=own)
    assert filled.actions()[-2:] == [(DISPATCH, r, 0), (DISPATCH, asked, 0)]
    assert filled.fleet.requests["rung"][asked] == NO_RUNG
    learned = filled.fleet.length_weight.copy()
    _token(filled, 0.046, first_of=r)
    _token(filled, 0.06, first_of=asked, last_of=asked)
    assert (filled.fleet.length_weight == learned).all()
