"""Pending queues give the earliest deadline first (I16)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from polyslo.core.pending import discard, head, pop, push

STEPS = ("push", "pop", "discard", "stranger")


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


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    steps=st.lists(st.tuples(st.sampled_from(["push", "pop", "discard", "stranger"]), st.integers(0, 9)), max_size=64)
)
def test_a_queue_is_a_sorted_list_whoever_leaves_it(hand, steps):
    """I16: after pushes, pops and discards from anywhere it holds whom it should, the earliest deadline on top.

    Deadlines repeat: among equals anyone may come first. One that is not there (any more) is discarded in vain.
    """
    filled = hand(1)
    due_s, size = filled.fleet.requests["first_due_s"], filled.fleet.pending_size
    waiting, gone = [], []
    for step, k in steps:
        if step == "push":
            r = filled.request(1, 10, 10, ttft_s=0.1 * k)
            push(filled.handle, 1, r)
            waiting.append(r)
        elif step == "pop" and waiting:
            r = pop(filled.handle, 1)
            assert due_s[r] == min(due_s[waiting])
            waiting.remove(r)
            gone.append(r)
        elif step == "discard" and waiting:
            r = waiting.pop(k % len(waiting))
            discard(filled.handle, 1, r)
            gone.append(r)
        elif step == "stranger" and gone:
            discard(filled.handle, 1, gone[k % len(gone)])
        held = filled.fleet.pending[1, : size[1]].tolist()
        assert sorted(held) == sorted(waiting)
        assert all(due_s[held[(k - 1) // 2]] <= due_s[held[k]] for k in range(1, len(held)))
    times_s = [due_s[pop(filled.handle, 1)] for _ in range(len(waiting))]
    assert times_s == sorted(times_s)
