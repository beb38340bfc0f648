from __future__ import annotations

import math

import pytest

from polyslo.engines.told import NOTHING, read_told


def test_nothing_told_is_best_effort():
    """A request that says nothing of an SLO has none, and other arguments are none of ours."""
    assert read_told(None, 5.0) is NOTHING
    assert read_told({"emulate_output_tokens": 7}, 5.0) is NOTHING
    assert NOTHING.is_best_effort


def test_due_times_count_from_the_arrival():
    """Token i is due at the arrival, plus what was left for the first, plus i times the TPOT."""
    told = read_told({"polyslo_tpot_ms": 50, "polyslo_first_due_ms": 300.5, "polyslo_pace_ms": 20}, 10.0)
    assert not told.is_best_effort
    assert told.pace_s == 0.02
    assert told.due_s(0) == pytest.approx(10.3005)
    assert told.due_s(4) == pytest.approx(10.5005)
    assert read_told({"polyslo_tpot_ms": "50"}, 10.0).tpot_s == 0.05


def test_a_request_may_be_late_on_arrival():
    """A first token that was due before is due before; that alone relegates nobody."""
    told = read_told({"polyslo_first_due_ms": -20}, 10.0)
    assert told.due_s(0) == pytest.approx(9.98)
    assert told.due_s(1) == math.inf
    assert not told.is_best_effort


def test_relegated_requests_keep_their_deadlines():
    """Among best-effort requests deadlines still order, and a pace alone is no SLO."""
    told = read_told({"polyslo_first_due_ms": 100, "polyslo_tpot_ms": 30, "polyslo_best_effort": 1}, 0.0)
    assert told.is_best_effort
    assert told.due_s(0) == pytest.approx(0.1)
    assert read_told({"polyslo_pace_ms": 20}, 0.0).is_best_effort


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tpot_ms", 0),
        ("tpot_ms", -1),
        ("tpot_ms", "fast"),
        ("tpot_ms", [50]),
        ("first_due_ms", math.nan),
        ("pace_ms", True),
        ("pace_ms", 0),
    ],
)
def test_malformed_values_are_named(key, value):
    """What is no time is an error that names its key."""
    with pytest.raises(ValueError, match=f"vllm_xargs.polyslo_{key}: must be"):
        read_told({f"polyslo_{key}": value}, 0.0)
