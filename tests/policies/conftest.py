"""Examples are imported from the repository's root; fleets without tiers, filled by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sim.invariants import run_to_end

from polyslo.core.fluid import LengthMoments
from polyslo.profiles.library import load_profile
from polyslo.sim import run
from polyslo.sim.fleet import FleetConfig, PolicySpec, build_fleet
from polyslo.workload.model import load_model
from polyslo.workload.slo import lay, load_slo_mix

REPOSITORY = Path(__file__).parents[2]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))


@pytest.fixture(autouse=True)
def check_all_runs(monkeypatch):
    """Whatever `simulate` runs is watched and checked (I1 to I11)."""
    monkeypatch.setattr(run, "run_world", run_to_end)


@pytest.fixture(scope="session")
def profile():
    """The shipped default."""
    return load_profile("llama-3.1-8b-h200-tp1").profile


@pytest.fixture(scope="session")
def workload(profile):
    """Five hundred requests at 40 a second, with the default SLO mix."""
    trace = load_model("azure2023-conv").sample(500, 40.0, 1, "poisson")
    return lay(trace, load_slo_mix("default"), 1, profile.idle_ttft_s)


@pytest.fixture
def fleet_of(profile):
    """Return a function that gives an empty fleet of four, set up for a policy, with 32 requests of 100 tokens."""
    import numpy as np

    def build(name, num_instances=4, mode="co"):
        moments = LengthMoments.of([500], [100])
        config = FleetConfig(num_instances=num_instances, mode=mode)
        fleet = build_fleet(
            config, PolicySpec.parse(name), profile, np.array([0.02, 0.05]), np.array([0.5, 0.5]), moments, 32
        )
        fleet.num_actions[0] = 0
        for field in ("input_tokens", "prefill_tokens", "remaining_tokens", "expected_tokens"):
            fleet.requests[field] = 100
        fleet.requests["first_due_s"] = fleet.requests["prefill_due_s"] = 1.0
        fleet.requests["tpot_s"] = 0.05
        fleet.requests["tier"] = 1
        return fleet

    return build
