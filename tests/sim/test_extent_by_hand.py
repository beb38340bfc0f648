"""The largest iterations of a run, worked out by hand, and that a run which passes its profile's points says so."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from linear_profile import linear_profile

from polyslo.core.extent import Extent
from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.run import simulate
from polyslo.sim.setting import Setting
from polyslo.workload.workload import Workload


@pytest.mark.parametrize(
    ("requests", "largest"),
    [
        # 100 tokens each attend to 50 on average. Decodes over 100, 101 and 102 tokens bring the other three.
        ([(0.0, 100, 4)], Extent(1, 102, 100, 50)),
        # 300 tokens in pieces of 128, 128 and 44 (prefix 256 and 22 on average); a single output token: no decode.
        ([(0.0, 300, 1)], Extent(0, 0, 128, 278)),
        # The second comes in the first's prompt. Both decode, over 101 + 50 tokens, then 102 + 51; the first ends then.
        # The chunk is 100, then 50 beside one decode.
        ([(0.0, 100, 4), (0.001, 50, 9)], Extent(2, 153, 100, 50)),
    ],
)
def test_the_largest_iterations_are_kept(requests, largest) -> None:
    """Decodes, their KV, chunk and context: the largest of each, whichever iteration had it."""
    arrival_s, input_tokens, output_tokens = (np.array(column) for column in zip(*requests, strict=True))
    same = np.ones(len(requests))
    workload = Workload(
        "by hand", arrival_s, input_tokens.astype(np.int32), output_tokens.astype(np.int32), same, same, (1.0,),
        np.zeros(len(requests), dtype=np.int32),
    )  # fmt: skip
    run = simulate(workload, linear_profile(), PolicySpec.parse("minimal:chunk=128"), FleetConfig(num_instances=1))
    assert run.largest == largest


def test_a_run_beyond_the_points_says_so(tmp_path: Path) -> None:
    """A profile of batches to 4 that has to serve larger ones is extrapolated; the shipped one is not."""
    shipped = json.loads((files("polyslo.profiles") / "data" / "llama-3.1-8b-h200-tp1.json").read_text())
    del shipped["grid"]
    small = shipped | {"decode": [row for row in shipped["decode"] if row["decodes"] <= 4]}
    (tmp_path / "small.json").write_text(json.dumps(small))
    (run,) = Setting.of(profile=tmp_path / "small.json", instances=2).run([PolicySpec.parse("minimal")], 10, 0, 8.0)
    assert run.largest.decodes > 4
    (notice,) = run.notices
    assert f"points of profile small: batches to {run.largest.decodes} (points to 4)" in notice
    (run,) = Setting.of(instances=2).run([PolicySpec.parse("minimal")], 10, 0, 8.0)
    assert run.notices == ()
