"""A user's own policy runs like a built-in one (I20)."""

from __future__ import annotations

import pytest

from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.run import simulate


@pytest.mark.parametrize("mode", ["co", "pd"])
def test_the_example_policy_serves_a_workload(workload, profile, mode):
    """I20: `examples.my_policy:place` is asked for each request, and all are served or relegated."""
    spec = PolicySpec.parse("examples.my_policy:place")
    result = simulate(workload, profile, spec, FleetConfig(num_instances=4, mode=mode))
    assert sum(t.num_attained for t in result.tiers) > 0
    assert not any(t.num_refused for t in result.tiers)


def test_a_policy_that_answers_no_instance_refuses(workload, profile):
    """I20: -1 refuses: every request ends refused."""
    from dataclasses import replace

    spec = replace(PolicySpec.parse("examples.my_policy:place"), place=lambda fleet, r, now_s: -1)
    result = simulate(workload, profile, spec, FleetConfig(num_instances=4))
    assert all(t.num_refused == t.num_requests for t in result.tiers)
