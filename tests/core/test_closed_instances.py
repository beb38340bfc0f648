"""Instances that take nothing new: never claimed, never asked, and nothing else stops because of them (I17, G5)."""

from __future__ import annotations

import pytest

from polyslo.core.belief import observe_finished, observe_first_token, observe_iteration_end
from polyslo.core.ladder import place, place_or_pend
from polyslo.core.scaling import assign, claim, close_instance, release
from polyslo.core.state import (
    DISPATCH,
    DRAINING,
    FITS,
    NONE,
    OWN,
    PENDING,
    RELEGATED,
    SCALED_UP,
    TAKEN_OVER,
    UNHEALTHY,
    num_idle,
)
from polyslo.policies.decide import on_iteration_settled, on_progress
from polyslo.policies.static_tiers import least_loaded_of_tier
from polyslo.policies.table import POLYSERVE


@pytest.mark.parametrize("reason", [DRAINING, UNHEALTHY])
def test_a_closed_idle_instance_is_never_claimed(hand, reason):
    """Of three idle instances two are closed: one claim succeeds, the next finds the pool empty."""
    filled = hand(3)
    close_instance(filled.handle, 0, reason)
    close_instance(filled.handle, 2, reason)
    assert num_idle(filled.handle) == 1
    assert claim(filled.handle, 1, 0.0) == 1
    assert num_idle(filled.handle) == 0
    assert claim(filled.handle, 1, 0.0) == NONE


def test_closing_twice_counts_once(hand):
    """From draining to unhealthy and back to fits: the pool is what it was, whatever was told how often."""
    filled = hand(2)
    for reason, idle in ((DRAINING, 1), (UNHEALTHY, 1), (UNHEALTHY, 1), (FITS, 2), (FITS, 2)):
        close_instance(filled.handle, 0, reason)
        assert num_idle(filled.handle) == idle


def test_the_pool_counts_closed_instances_as_they_come_and_go(hand):
    """One that is closed while a tier owns it counts once it is released, and no more when it is assigned again."""
    filled = hand(2)
    assign(filled.handle, 0, 1, 0.0)
    close_instance(filled.handle, 0, DRAINING)
    assert (num_idle(filled.handle), filled.fleet.settings["num_closed_idle"][0]) == (1, 0)
    release(filled.handle, 0, 0.0)
    assert (num_idle(filled.handle), filled.fleet.settings["num_closed_idle"][0]) == (1, 1)
    assign(filled.handle, 0, 0, 0.0)
    assert filled.fleet.settings["num_closed_idle"][0] == 0
    close_instance(filled.handle, 0, FITS)
    release(filled.handle, 0, 0.0)
    assert num_idle(filled.handle) == 2


def test_scaling_up_passes_over_closed_instances(hand):
    """A tier whose only instance is closed claims the one idle instance that is open; with none it pends."""
    filled = hand(3)
    assign(filled.handle, 0, 1, 0.0)
    close_instance(filled.handle, 0, UNHEALTHY)
    close_instance(filled.handle, 1, UNHEALTHY)
    first = filled.request(1, 1000, 100)
    assert place(filled.handle, first, 0.0)
    assert (filled.fleet.requests["instance"][first], filled.fleet.requests["rung"][first]) == (2, SCALED_UP)
    close_instance(filled.handle, 2, UNHEALTHY)
    second = filled.request(1, 1000, 100)
    place_or_pend(filled.handle, second, 0.0)
    assert filled.fleet.requests["stage"][second] == PENDING
    assert filled.fleet.requests["reasons"][second] == 1 << UNHEALTHY


def test_opening_an_instance_serves_what_waited_for_it(hand):
    """With everything closed a request pends; it is placed as soon as its instance is open again."""
    filled = hand(1)
    close_instance(filled.handle, 0, UNHEALTHY)
    r = filled.request(1, 1000, 100)
    place_or_pend(filled.handle, r, 0.0)
    close_instance(filled.handle, 0, FITS)
    on_progress(POLYSERVE, filled.handle, 0, 0.001)
    assert filled.fleet.requests["instance"][r] == 0
    assert not filled.fleet.pending_size.any()


def test_a_tier_takes_over_what_is_open_behind_a_closed_one(hand):
    """Tier 1 owns a closed instance and an open one that decodes; tier 0, with nothing, takes the open one."""
    filled = hand(2)
    for i in (0, 1):
        assign(filled.handle, i, 1, 0.0)
    guest = filled.request(1, 1000, 100)
    assert place(filled.handle, guest, 0.0)
    busy = int(filled.fleet.requests["instance"][guest])
    close_instance(filled.handle, 1 - busy, UNHEALTHY)
    observe_iteration_end(filled.handle, busy)
    observe_first_token(filled.handle, busy, guest)
    on_iteration_settled(POLYSERVE, filled.handle, busy, 0.015, 0.015)
    assign(filled.handle, 1 - busy, 1, 0.015)  # it was released, being empty; it counts as owned all the same
    r = filled.request(0, 1000, 100)
    assert place(filled.handle, r, 0.015)
    assert (filled.fleet.requests["instance"][r], filled.fleet.requests["rung"][r]) == (busy, TAKEN_OVER)


def test_a_tier_whose_own_instances_are_closed_takes_over_too(hand):
    """Tier 0 owns one instance, unhealthy and not empty; the pool is empty: it takes tier 1's, as if it owned none."""
    filled = hand(2)
    stuck, loose = filled.request(0, 1000, 100), filled.request(1, 1000, 100)
    assert place(filled.handle, stuck, 0.0)
    closed = int(filled.fleet.requests["instance"][stuck])
    close_instance(filled.handle, closed, UNHEALTHY)
    assert place(filled.handle, loose, 0.0)
    host = int(filled.fleet.requests["instance"][loose])
    observe_iteration_end(filled.handle, host)
    observe_first_token(filled.handle, host, loose)
    on_iteration_settled(POLYSERVE, filled.handle, host, 0.015, 0.015)
    r = filled.request(0, 1000, 100)
    assert place(filled.handle, r, 0.015)
    assert (filled.fleet.requests["instance"][r], filled.fleet.requests["rung"][r]) == (host, TAKEN_OVER)


def test_best_effort_work_waits_for_an_open_instance(hand):
    """A hopeless request with every idle instance closed is set aside, and starts when one opens."""
    filled = hand(1)
    close_instance(filled.handle, 0, DRAINING)
    r = filled.request(1, 1000, 100, ttft_s=0.01)
    place_or_pend(filled.handle, r, 0.0)
    on_progress(POLYSERVE, filled.handle, 0, 0.001)
    assert filled.fleet.requests["stage"][r] == RELEGATED
    assert filled.fleet.pending_size.tolist() == [0, 0, 1]
    filled.actions()
    close_instance(filled.handle, 0, FITS)
    on_progress(POLYSERVE, filled.handle, 0, 0.002)
    assert (DISPATCH, r, 0) in filled.actions()


def test_what_runs_on_a_closed_instance_goes_on_and_the_instance_then_leaves_its_tier(hand):
    """Draining keeps residents' promises; once empty the instance goes to the pool, and nobody claims it."""
    filled = hand(2)
    r = filled.request(1, 1000, 1)
    assert place(filled.handle, r, 0.0)
    i = int(filled.fleet.requests["instance"][r])
    assert filled.fleet.requests["rung"][r] in (OWN, SCALED_UP)
    close_instance(filled.handle, i, DRAINING)
    observe_iteration_end(filled.handle, i)
    observe_first_token(filled.handle, i, r)
    observe_finished(filled.handle, i, r, 1)
    on_iteration_settled(POLYSERVE, filled.handle, i, 0.015, 0.015)
    assert filled.fleet.group_size.tolist() == [0, 0, 0, 2]
    assert num_idle(filled.handle) == 1
    assert claim(filled.handle, 0, 0.02) == 1 - i


def test_fixed_tiers_pass_over_closed_instances(hand):
    """`static-tiers`: least loaded open of the own tier, else of the nearest tighter, else of a looser; else nobody."""
    filled = hand(3)
    for i, group in ((0, 0), (1, 1), (2, 1)):
        assign(filled.handle, i, group, 0.0)
    r = filled.request(1, 1000, 100)
    expected = []
    for closed in (None, 2, 1, 0):
        if closed is not None:
            close_instance(filled.handle, closed, UNHEALTHY)
        expected.append(int(least_loaded_of_tier(filled.handle, r, 0.0)))
    assert expected == [2, 1, 0, NONE]
