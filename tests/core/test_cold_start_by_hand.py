"""Cold starts: what is given back stays warm for `keep_warm_s`; two instances, cold starts and warmth of 2 s."""

from __future__ import annotations

import pytest

from polyslo.core.ladder import place
from polyslo.core.scaling import claim, release, standby_s
from polyslo.core.state import NONE, RETIER, SCALED_UP, START


@pytest.fixture
def cold(hand):
    """A fleet of two that were given back at 0 s."""
    filled = hand(2)
    filled.fleet.settings["cold_start_s"] = filled.fleet.settings["keep_warm_s"] = 2.0
    return filled


def test_a_warm_instance_is_claimed_first_and_works_at_once(cold):
    """Claimed at 1 s, given back at 1.5 s, and claimed at 3.4 s: 1.9 s later it is warm, and the other one is not."""
    first = claim(cold.handle, 0, 1.0)
    assert cold.fleet.instances["ready_s"][first] == 1.0
    release(cold.handle, first, 1.5)
    assert claim(cold.handle, 0, 3.4) == first
    assert cold.fleet.instances["ready_s"][first] == 3.4
    assert (START, NONE, first) not in cold.actions()


def test_an_instance_that_was_idle_for_long_has_to_start(cold):
    """Given back at 0 s and claimed at 2 s, when its warmth ends: it works from 4 s on."""
    i = claim(cold.handle, 0, 2.0)
    assert cold.fleet.instances["ready_s"][i] == 4.0
    assert cold.actions() == [(RETIER, NONE, i), (START, NONE, i)]


def test_a_start_goes_on_while_nobody_owns_the_instance(cold):
    """Claimed at 10 s (ready at 12 s), given back at 10.5 s, claimed at 11 s: still ready at 12 s, not before."""
    i = claim(cold.handle, 0, 10.0)
    release(cold.handle, i, 10.5)
    assert claim(cold.handle, 1, 11.0) == i
    assert cold.fleet.instances["ready_s"][i] == 12.0


def test_warmth_is_paid_for(cold):
    """Idle from 0 to 1 s and from 1.5 to 3.4 s: 2.9 s. The other one from 0 s on, of which 2 s count: 4.9 s at 3.4 s.

    At 2 s it is 1.0 + 0.5 and 2.0 s.
    """
    first = claim(cold.handle, 0, 1.0)
    release(cold.handle, first, 1.5)
    assert standby_s(cold.handle, 2.0) == pytest.approx(3.5)
    claim(cold.handle, 0, 3.4)
    assert standby_s(cold.handle, 3.4) == pytest.approx(4.9)


def test_without_cold_starts_nothing_is_kept_warm(hand):
    """The usual fleet: an idle instance costs nothing and works when it is claimed."""
    filled = hand(2)
    i = claim(filled.handle, 0, 5.0)
    assert filled.fleet.instances["ready_s"][i] == 5.0
    assert standby_s(filled.handle, 5.0) == 0.0


def test_one_that_works_comes_before_one_in_its_start(cold):
    """Both given back at 10.5 s, one while it starts (ready at 12 s), the other while it works: that one is taken."""
    starting = claim(cold.handle, 0, 10.0)
    cold.fleet.instances["ready_s"][1 - starting] = 9.0
    for i in (1 - starting, starting):
        release(cold.handle, i, 10.5)
    assert claim(cold.handle, 1, 11.0) == 1 - starting
    assert claim(cold.handle, 1, 11.0) == starting
    assert cold.fleet.instances["ready_s"].tolist() == ([12.0, 11.0] if starting == 0 else [11.0, 12.0])


@pytest.mark.parametrize(("given_back_s", "placed"), [(10.5, True), (8.9, False)])
def test_while_one_starts_a_warm_one_is_still_taken(cold, given_back_s, placed):
    """At 11 s one starts for the tier (ready at 12 s). The other, idle for 0.5 s, is warm and takes the request.

    Idle for 2.1 s it would have to start as well, and it is one cold start at a time.
    """
    starting = claim(cold.handle, 1, 10.0)
    cold.fleet.instances["ready_s"][1 - starting] = 0.0
    cold.fleet.instances["idle_since_s"][1 - starting] = given_back_s
    r = cold.request(1, 1000, 10, arrival_s=11.0)
    assert place(cold.handle, r, 11.0) == placed
    if placed:
        assert (cold.fleet.requests["instance"][r], cold.fleet.requests["rung"][r]) == (1 - starting, SCALED_UP)
    assert cold.fleet.group_size.tolist() == ([0, 2, 0, 0] if placed else [0, 1, 0, 1])
