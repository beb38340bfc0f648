"""How many engines run: as many as work and one more, between bounds."""

from __future__ import annotations

from polyslo.fleets.pool import BUSY, COMING, IDLE, OFF, Pool, PoolRule


def test_a_busy_fleet_keeps_one_spare():
    """With every engine busy the next one starts; one that comes already is counted."""
    pool = Pool(PoolRule(least=1, most=4))
    assert pool.step([BUSY, OFF, OFF, OFF], 0, 0.0) == ([1], [])
    assert pool.step([BUSY, COMING, OFF, OFF], 0, 1.0) == ([], [])
    assert pool.step([BUSY, COMING, OFF, OFF], 3, 2.0) == ([2], [])


def test_bounds_hold():
    """Never more than `most`, never fewer than `least`, also where nothing is to be done."""
    assert Pool(PoolRule(least=1, most=2)).step([BUSY, BUSY], 9, 0.0) == ([], [])
    pool = Pool(PoolRule(least=2, most=3, linger_s=10.0))
    assert pool.step([IDLE, IDLE, OFF], 0, 0.0) == ([], [])
    assert pool.step([IDLE, IDLE, OFF], 0, 99.0) == ([], [])


def test_the_last_are_stopped_after_they_have_been_idle_for_a_while():
    """Work in between begins the time anew; the spare stays."""
    pool = Pool(PoolRule(least=1, most=4, linger_s=10.0))
    assert pool.step([BUSY, IDLE, IDLE, IDLE], 0, 0.0) == ([], [])
    assert pool.step([BUSY, IDLE, BUSY, IDLE], 0, 5.0) == ([], [])
    assert pool.step([BUSY, IDLE, IDLE, IDLE], 0, 10.0) == ([], [3, 1])
    assert pool.step([BUSY, OFF, IDLE, OFF], 0, 30.0) == ([], [])
