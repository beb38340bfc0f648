"""The same seed gives the same bytes (I15)."""

from __future__ import annotations

import pytest

from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.run import simulate


def _run(workload, profile, name, mode, seed, noise_ratio=0.1):
    config = FleetConfig(num_instances=4, mode=mode, noise_ratio=noise_ratio)
    return simulate(workload, profile, PolicySpec.parse(name), config, seed=seed)


@pytest.mark.parametrize("mode", ["co", "pd"])
@pytest.mark.parametrize("name", ["polyserve", "random", "minimal"])
def test_the_same_seed_gives_the_same_result(make_workload, profile, name, mode):
    """I15: two runs from the same seed, noise and random choices included, are equal in every field."""
    workload = make_workload(600, 60.0)
    first = _run(workload, profile, name, mode, 3)
    assert repr(first) == repr(_run(workload, profile, name, mode, 3))


def test_results_without_gaps_compare_equal(make_workload, profile):
    """I15: results of the same seed are equal as dataclasses too."""
    workload = make_workload(600, 60.0)
    assert _run(workload, profile, "polyserve", "co", 3) == _run(workload, profile, "polyserve", "co", 3)


@pytest.mark.parametrize("name", ["polyserve", "random"])
def test_another_seed_gives_another_result(make_workload, profile, name):
    """I15: the noise follows the seed."""
    workload = make_workload(600, 60.0)
    assert _run(workload, profile, name, "co", 3) != _run(workload, profile, name, "co", 4)


def test_another_workload_seed_gives_another_workload(make_workload):
    """I15: arrivals follow the workload's seed."""
    assert (make_workload(600, 60.0, 1).arrival_s != make_workload(600, 60.0, 2).arrival_s).any()
