"""What is believed while news is under way, and what restarts do (I4, I17); the profile is test_ladder_by_hand.py's."""

from __future__ import annotations

import pytest

from polyslo.core.admission import admit_colocated
from polyslo.core.belief import (
    enqueue,
    observe_first_token,
    observe_iteration_end,
    observe_restarted,
    settle_iteration,
)
from polyslo.core.ladder import place
from polyslo.core.scaling import assign
from polyslo.core.state import FIRST_TOKEN, FITS, QUEUED


def _send(filled, r, now_s):
    filled.fleet.requests["decided_s"][r] = now_s
    enqueue(filled.handle, r, 0, now_s)


@pytest.mark.parametrize(
    ("ttft_s", "expected", "foreseen_s"),
    [(0.0601, FIRST_TOKEN, None), (0.0602, FITS, 0.0802), (0.1, FITS, 0.115)],
)
def test_a_newcomer_does_not_join_an_iteration_that_has_begun(hand, ttft_s, expected, foreseen_s):
    """I17: the iteration was to end at 15 ms; at 20 ms the next runs already, to 65 ms: first token at 115 ms.

    The one that brings it holds a decode over 1,001 KV tokens, 5 + 10.01 + 0.1001 ms, and may be cut down to that.
    """
    filled = hand(1)
    assert place(filled.handle, filled.request(1, 1000, 100), 0.0)
    r = filled.request(1, 1000, 100, arrival_s=0.02, ttft_s=ttft_s)
    reason, first_s, iteration, _ = admit_colocated(filled.handle, 0, r, 0.02, 0.05)
    assert reason == expected
    if expected == FITS:
        assert (first_s, iteration) == (pytest.approx(foreseen_s), 3)


def test_what_was_sent_since_an_iteration_began_is_not_in_it(hand):
    """I4: news of 15 ms comes at 30 ms; the prompt sent at 20 ms is not in the iteration that began at 15 ms.

    That one holds one decode over 1,000 KV tokens: 5 + 0.01 + 0.1 = 5.11 ms. The next holds the prompt.
    """
    filled = hand(1)
    first = filled.request(1, 1000, 100)
    assert place(filled.handle, first, 0.0)
    second = filled.request(1, 1000, 100)
    _send(filled, second, 0.02)
    observe_iteration_end(filled.handle, 0)
    observe_first_token(filled.handle, 0, first)
    settle_iteration(filled.handle, 0, 0.015)
    instances, requests = filled.fleet.instances, filled.fleet.requests
    assert (instances["chunk"][0], requests["remaining_tokens"][second]) == (0, 1000)
    assert instances["iteration_end_s"][0] == pytest.approx(0.02011)
    observe_iteration_end(filled.handle, 0)
    settle_iteration(filled.handle, 0, 0.02011)
    assert (instances["chunk"][0], requests["remaining_tokens"][second]) == (1000, 0)


def test_an_engine_that_ran_empty_begins_with_the_next_prompt(hand):
    """I4: it ended all at 15 ms, which is not known yet; a prompt sent at 20 ms runs from then on, to 35 ms."""
    filled = hand(1)
    first = filled.request(1, 1000, 1)
    assert place(filled.handle, first, 0.0)
    _send(filled, filled.request(1, 1000, 100), 0.02)
    filled.fleet.requests["stage"][first] = QUEUED
    observe_iteration_end(filled.handle, 0)
    observe_first_token(filled.handle, 0, first)
    filled.fleet.instances["num_decodes"][0] = 0  # its only token
    settle_iteration(filled.handle, 0, 0.015)
    assert filled.fleet.instances["chunk"][0] == 1000
    assert filled.fleet.instances["iteration_end_s"][0] == pytest.approx(0.035)


def test_a_cold_instance_begins_once_when_it_is_ready(hand):
    """I4: ready at 2 s, it begins what waits: 15 ms. A prompt sent 10 ms later comes after, whenever the news comes."""
    filled = hand(1)
    assign(filled.handle, 0, 1, 0.0)
    instances, requests = filled.fleet.instances, filled.fleet.requests
    instances["ready_s"] = 2.0
    waiting, late = filled.request(1, 1000, 100), filled.request(1, 1000, 100)
    _send(filled, waiting, 1.5)
    assert instances["busy"][0] == 0
    _send(filled, late, 2.01)
    settle_iteration(filled.handle, 0, 2.0)
    assert requests["remaining_tokens"][[waiting, late]].tolist() == [0, 1000]
    assert instances["chunk"][0] == 1000
    assert instances["iteration_end_s"][0] == pytest.approx(2.015)


def test_a_restart_keeps_the_first_prompt_only(hand):
    """I4: of two prompts of 1,000 with 400 and 300 tokens in the KV the second's 300 are to be prefilled again."""
    filled = hand(1)
    assign(filled.handle, 0, 1, 0.0)
    filled.fleet.instances["ready_s"] = 9.0
    for k, remaining in enumerate((600, 700)):
        filled.request(1, 1000, 100)
        _send(filled, k, 0.0)
        filled.fleet.requests["remaining_tokens"][k] = remaining
    filled.fleet.instances["kv_tokens"], filled.fleet.instances["queued_tokens"] = 700, 1300
    observe_restarted(filled.handle, 0)
    assert filled.fleet.requests["remaining_tokens"][:2].tolist() == [600, 1000]
    assert filled.fleet.instances["kv_tokens"][0] == 400
    assert filled.fleet.instances["queued_tokens"][0] == 1600
