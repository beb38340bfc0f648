"""The ledger against a walk through every iteration: who is there, and the KV that all of them hold."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from polyslo.core.ledger import add_resident, overdue_resident, peak, remove_resident
from polyslo.core.state import NONE, Fleet, new_fleet

MOST = 12


def _fleet(make_profile) -> Fleet:
    return new_fleet(make_profile(), num_instances=2, tpots_s=[0.05], num_requests=MOST + 4, max_residents=MOST)


def _held_at(fleet: Fleet, i: int, j: int) -> int:
    """KV tokens at iteration j of all that have not left by then, from the ledger's own numbers."""
    count = fleet.instances["num_residents"][i]
    there = fleet.resident_finish[i, :count] >= j
    return int((fleet.resident_base[i, :count] + j)[there].sum())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_peak_is_the_largest_kv_at_any_departure(make_profile, data):
    """After any coming and going, with a newcomer of any length, and asked twice: the second time it knows."""
    fleet, i = _fleet(make_profile), 1
    inside: set[int] = set()
    for _ in range(data.draw(st.integers(0, 30))):
        r = data.draw(st.integers(0, len(fleet.requests) - 1))
        if r in inside:
            remove_resident(fleet.handle, i, r)
            inside.remove(r)
        else:
            fleet.requests["prefill_tokens"][r] = data.draw(st.integers(1, 50))
            fleet.requests["expected_tokens"][r] = data.draw(st.integers(1, 20))
            add_resident(fleet.handle, i, r, data.draw(st.integers(0, 15)))
            if len(inside) < MOST:
                inside.add(r)
        count = fleet.instances["num_residents"][i]
        assert set(fleet.resident[i, :count].tolist()) == inside
        assert (np.diff(fleet.resident_finish[i, :count]) >= 0).all()
        start = data.draw(st.integers(0, 15))
        finish, base = start + data.draw(st.integers(1, 20)), data.draw(st.integers(1, 50)) - start
        departures = [*fleet.resident_finish[i, :count].tolist(), finish]
        expected = max(_held_at(fleet, i, j) + (base + j if j <= finish else 0) for j in departures)
        for _ in range(2):
            assert peak(fleet.handle, i, finish, base) == max(0, expected)


def test_one_that_is_not_there_is_left_alone(make_profile):
    """Striking out a request of another instance changes nothing; of the empty ledger nobody is overdue."""
    fleet = _fleet(make_profile)
    fleet.requests["expected_tokens"] = 4
    add_resident(fleet.handle, 0, 3, 10)
    remove_resident(fleet.handle, 1, 3)
    remove_resident(fleet.handle, 0, 2)
    assert fleet.instances["num_residents"].tolist() == [1, 0]
    assert (overdue_resident(fleet.handle, 0), overdue_resident(fleet.handle, 1)) == (NONE, NONE)
    fleet.instances["iteration"][0] = 13
    assert overdue_resident(fleet.handle, 0) == 3
