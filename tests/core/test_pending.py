"""Pending queues give the earliest deadline first (I16)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from polyslo.core.pending import head, pop, push


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    ttfts_s=st.lists(st.floats(0.001, 10.0), min_size=1, max_size=40),
    pops_between=st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_a_queue_pops_by_deadline(hand, ttfts_s, pops_between):
    """I16: mixing pushes and pops, each pop gives the earliest first-token deadline of those waiting."""
    filled = hand(1)
    due_s = filled.fleet.requests["first_due_s"]
    waiting = set()
    for ttft_s, take in zip(ttfts_s, pops_between, strict=False):
        r = filled.request(1, 10, 10, ttft_s=ttft_s)
        push(filled.handle, 1, r)
        waiting.add(r)
        if take:
            assert due_s[head(filled.handle, 1)] == min(due_s[list(waiting)])
            waiting.remove(pop(filled.handle, 1))
    times_s = [due_s[pop(filled.handle, 1)] for _ in range(len(waiting))]
    assert times_s == sorted(times_s)
    assert filled.fleet.pending_size.tolist() == [0, 0, 0]
    assert head(filled.handle, 1) == -1


def test_queues_do_not_mix(hand):
    """I16: each tier has its own queue."""
    filled = hand(1)
    first, second = filled.request(0, 10, 10), filled.request(1, 10, 10)
    push(filled.handle, 0, first)
    push(filled.handle, 1, second)
    assert (pop(filled.handle, 0), pop(filled.handle, 1)) == (first, second)
