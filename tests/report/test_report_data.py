from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from polyslo.errors import ConfigError, InputError
from polyslo.report.data import from_json, to_json
from polyslo.sim.results import Comparison, RunResult


def test_a_comparison_survives_the_round_trip(comparison: Comparison) -> None:
    """What is read back is equal, field by field, and writes the same text again."""
    bare = replace(comparison, runs=tuple(replace(run, timeline=None) for run in comparison.runs))
    assert from_json(to_json(bare)) == bare
    assert to_json(from_json(to_json(comparison))) == to_json(comparison)


def test_a_run_with_its_timeline_survives_the_round_trip(run: RunResult) -> None:
    """Nested tuples come back as tuples, integers as integers, NaN as NaN."""
    back = from_json(to_json(run))
    assert isinstance(back, RunResult)
    assert back.timeline is not None
    assert run.timeline is not None
    assert back.timeline.loads == run.timeline.loads
    assert math.isnan(back.timeline.attainment[0][0])


def test_nan_and_infinity_become_null(run: RunResult) -> None:
    """The text is strict JSON: no NaN, no Infinity."""
    odd = replace(run, timeline=None, instance_seconds=math.inf, rate_rps=math.nan)
    document = json.loads(to_json(odd), parse_constant=pytest.fail)
    assert document["instance_seconds"] is None
    assert document["rate_rps"] is None


def test_keys_come_in_the_order_of_the_fields(run: RunResult) -> None:
    """The schema is first, then the fields as declared, so that files can be compared line by line."""
    keys = list(json.loads(to_json(run)))
    assert keys[:3] == ["schema", "policy", "mode"]


def test_numpy_numbers_are_written_as_numbers(run: RunResult) -> None:
    """A simulator that leaves numpy scalars in its results still writes the same text."""
    plain = replace(run, num_iterations=7, rate_rps=2.5)
    arrayed = replace(run, num_iterations=np.int64(7), rate_rps=np.float64(2.5))  # type: ignore[arg-type]
    assert to_json(arrayed) == to_json(plain)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object, got list"),
        ('{"schema": "polyslo.rum/1"}', "did you mean 'polyslo.run/1'"),
        ('{"schema": "polyslo.run/1", "policy": "x"}', "missing key 'mode'"),
    ],
)
def test_a_file_that_is_no_result_is_refused_by_name(text: str, complaint: str) -> None:
    """Errors say what was found and what was meant."""
    with pytest.raises(InputError, match=complaint):
        from_json(text)


def test_errors_name_the_field(run: RunResult) -> None:
    """A wrong type or an unknown key is located by its path."""
    document = json.loads(to_json(replace(run, timeline=None)))
    document["tiers"][1]["num_missed"] = "many"
    with pytest.raises(InputError, match=r"result\.tiers\[1\]\.num_missed: expected int, got 'many'"):
        from_json(json.dumps(document))
    document["tiers"][1] = {**document["tiers"][0], "num_mised": 1}
    with pytest.raises(ConfigError, match="did you mean 'num_missed'"):
        from_json(json.dumps(document))
