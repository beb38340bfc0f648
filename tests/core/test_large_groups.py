"""Large groups are searched by bisection, which finds what asking everybody finds (I17)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from polyslo.core.admission import admit_colocated
from polyslo.core.belief import enqueue, reserve
from polyslo.core.ladder import COLOCATED, TAIL, most_loaded_that_fits
from polyslo.core.scaling import assign
from polyslo.core.state import FITS, NONE

SIZE = 40  # more than ASKED
MOST_ASKED = TAIL + 6  # and 2**6 > SIZE


@settings(max_examples=60, deadline=None, derandomize=True)
@given(loads=st.lists(st.integers(1, 90_000), min_size=SIZE, max_size=SIZE), tokens=st.integers(1, 90_000))
def test_bisection_finds_what_asking_everybody_finds(hand, loads, tokens):
    """I17: where whoever is less loaded fits too, both find the same instance; bisection asks ten at most."""
    filled = hand(SIZE + SIZE // 2)  # a third is idle: requests are packed
    for i, load in enumerate(loads):
        assign(filled.handle, i, 1, 0.0)
        reserve(filled.handle, filled.request(1, load, 1000), i, 1)
    r = filled.request(1, tokens, 10, ttft_s=5.0)
    fits = [i for i in filled.order(1) if admit_colocated(filled.handle, i, r, 0.0, 0.05)[0] == FITS]
    assert fits == filled.order(1)[SIZE - len(fits) :], "fitting is monotone in the load here"
    found, _, _ = most_loaded_that_fits(filled.handle, COLOCATED, 1, r, float("inf"), 0.0)
    assert found == (fits[0] if fits else NONE)
    assert filled.fleet.counters[1].sum() <= MOST_ASKED


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    loads=st.lists(st.integers(1, 90_000), min_size=SIZE, max_size=SIZE, unique=True),
    queued=st.lists(st.booleans(), min_size=SIZE, max_size=SIZE) | st.just([True] * SIZE),
    tokens=st.integers(1, 90_000),
)
def test_with_none_idle_the_most_loaded_without_a_queue_is_found(hand, loads, queued, tokens):
    """I17: where whoever is less loaded fits too, it is the one that asking everybody finds; else the least loaded."""
    filled = hand(SIZE)
    for i, (load, waits) in enumerate(zip(loads, queued, strict=True)):
        assign(filled.handle, i, 1, 0.0)
        reserve(filled.handle, filled.request(1, load, 1000), i, 1)
        if waits:
            enqueue(filled.handle, filled.request(1, 1, 1), i, 0.0)
    r = filled.request(1, tokens, 10, ttft_s=5.0)
    fits = [i for i in filled.order(1) if admit_colocated(filled.handle, i, r, 0.0, 0.05)[0] == FITS]
    assert fits == filled.order(1)[SIZE - len(fits) :], "fitting is monotone in the load here"
    found, _, _ = most_loaded_that_fits(filled.handle, COLOCATED, 1, r, float("inf"), 0.0)
    unqueued = [i for i in fits if not queued[i]]
    assert found == next(iter(unqueued or reversed(fits)), NONE)


def test_bisection_asks_few(hand):
    """I17: loads of 2,000, 4,000, ... 80,000 and a prompt of 50,000: 97,000 hold it beside up to 46,000, the 23rd.

    Asked are the ranks 39 (fits), 19 (fits), 9, 14, 17 (fits) and 16: three refuse. One by one it would be 17.
    """
    filled = hand(SIZE + SIZE // 2)  # a third is idle: requests are packed
    for i in range(SIZE):
        assign(filled.handle, i, 1, 0.0)
        reserve(filled.handle, filled.request(1, 2000 * (i + 1), 1000), i, 1)
    found, _, _ = most_loaded_that_fits(
        filled.handle, COLOCATED, 1, filled.request(1, 50_000, 10, ttft_s=5.0), float("inf"), 0.0
    )
    assert found == 22
    assert filled.fleet.counters[1].sum() == 3
