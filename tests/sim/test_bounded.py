"""A run that is lost is not run to its end; all others are."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from polyslo.sim.bounded import attainment_or_bound
from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.setting import Setting

LEAST = 0.5


@pytest.fixture(scope="module")
def setting():
    """Four co-located instances."""
    return Setting.of(instances=4, fleet=FleetConfig(mode="co"))


def _both(setting, policy, share, seed=0):
    spec, rate_rps = PolicySpec.parse(policy), share * setting.optimum_rps()
    workload = setting.workload(rate_rps, seed, duration_s=60.0)
    bound = attainment_or_bound(workload, setting.named.profile, spec, setting.config, seed=seed, least=LEAST)
    (run,) = setting.run([spec], rate_rps, seed, 60.0)
    return bound, run.attainment


@pytest.mark.parametrize("policy", ["polyserve", "minimal", "random:relegate=off"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_what_could_attain_enough_is_run_to_its_end(setting, policy, share):
    """Looking in on a run does not change it: the attainment is that of the whole run, to the last bit."""
    bound, attainment = _both(setting, policy, share)
    assert attainment >= LEAST, "the case is meant to attain more"
    assert bound == attainment


@pytest.mark.parametrize("policy", ["minimal", "chunk:chunk=256,relegate=off"])
def test_of_a_lost_run_a_bound_is_told(setting, policy):
    """At twice the optimum more than half is missed before the last arrival; what is told is no less than the truth."""
    bound, attainment = _both(setting, policy, 2.0)
    assert attainment <= bound < LEAST
    assert bound > attainment + 0.05, "the run went on although it was lost"


def test_a_run_that_scores_nobody_is_run_to_its_end(setting):
    """The only requests come before and after the window that is scored."""
    workload = setting.workload(setting.optimum_rps(), 0, duration_s=20.0)
    arrays = {f.name: getattr(workload, f.name) for f in fields(workload)}
    ends = replace(workload, **{k: v[[0, -1]] for k, v in arrays.items() if np.shape(v) == workload.arrival_s.shape})
    spec = PolicySpec.parse("polyserve")
    bound = attainment_or_bound(ends, setting.named.profile, spec, setting.config, seed=0, least=LEAST)
    assert bound == 1.0
