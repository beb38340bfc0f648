"""What the evaluation compares: nothing left out, nothing left untuned."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyslo.claims.cases import MODES, TRACES, WORKLOADS, Case, cells, run_length_s
from polyslo.claims.disturbances import disturbances
from polyslo.claims.mechanisms import INSTEAD, ablations
from polyslo.claims.tuning import variants
from polyslo.policies.table import POLICIES
from polyslo.sim.fleet import MECHANISMS, PolicySpec
from polyslo.sim.run import WARMUP_RATIO


def test_every_workload_is_in_both_modes():
    """Nine workloads, co-located and disaggregated."""
    assert len(WORKLOADS) == 9
    assert {(case.workload, case.mode) for case in cells()} == {(w, m) for w in WORKLOADS for m in MODES}


def test_recorded_arrivals_are_added_where_traces_are(tmp_path):
    """Of a folder's traces those that are known are added, in both modes, and keep their arrivals."""
    (tmp_path / f"{TRACES[0]}.parquet").touch()
    (tmp_path / "other.parquet").touch()
    added = cells(tmp_path)[len(cells()) :]
    assert [(Path(case.workload).stem, case.mode) for case in added] == [(TRACES[0], "co"), (TRACES[0], "pd")]
    assert all(case.is_recorded for case in added)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_every_baseline_is_tried_and_can_be_run(mode, quick):
    """No policy is missing, and every variant is one that the simulator takes."""
    found = variants(Case("azure2023-conv", mode).setting(), quick=quick)
    assert {PolicySpec.parse(text).kind for text in found} == {k for n, k in POLICIES.items() if n != "polyserve"}
    assert len(found) == len(set(found))


def test_the_roles_are_split_around_the_fluid_share():
    """Disaggregated, one prefill instance less and one more than the fluid share are tried."""
    found = variants(Case("azure2023-conv", "pd").setting())
    sizes = sorted(PolicySpec.parse(t).prefill_instances for t in found if t.startswith("static-tiers:prefill"))
    assert sizes[1] - sizes[0] == 2


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_run_is_steady_when_it_is_scored(workload):
    """The warm-up holds the residence of a mean request of the loosest tier."""
    setting = Case(workload, "co").setting()
    residence_s = setting.mean_output_tokens() * setting.mix.tpots_s[-1]
    assert WARMUP_RATIO * run_length_s(setting) >= 0.999 * residence_s


def test_every_mechanism_can_be_switched_off():
    """Each mechanism has a policy without it and a sentence on what happens instead."""
    assert set(ablations()) == set(INSTEAD) == {*MECHANISMS, "relegation"}
    for name, text in ablations().items():
        spec = PolicySpec.parse(text)
        assert spec.without == ({name} if name != "relegation" else set())


@pytest.mark.parametrize("mode", MODES)
def test_disturbances_differ_from_the_usual_case_and_resolve(mode):
    """Every level is a case of its own, and a setting can be made of each."""
    levels = disturbances(mode)
    assert len({level.case for level in levels}) == len(levels)
    for level in levels:
        assert level.case.setting().config.mode == mode
