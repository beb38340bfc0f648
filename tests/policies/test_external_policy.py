"""A user's own policy runs like a built-in one (I20)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polyslo.errors import ConfigError
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
    spec = replace(PolicySpec.parse("examples.my_policy:place"), place=lambda fleet, r, now_s: -1)
    result = simulate(workload, profile, spec, FleetConfig(num_instances=4))
    assert all(t.num_refused == t.num_requests for t in result.tiers)


@pytest.mark.parametrize("answer", [4, -2, None, "first", float("nan")])
def test_a_policy_that_answers_with_no_instance_is_an_error(workload, profile, answer):
    """I20: the request, what was answered and what is allowed are in one line."""
    spec = replace(PolicySpec.parse("examples.my_policy:place"), place=lambda fleet, r, now_s: answer)
    with pytest.raises(ConfigError) as caught:
        simulate(workload, profile, spec, FleetConfig(num_instances=4))
    assert str(caught.value) == (
        f"policy: request 0 was sent to instance {answer}, there are 0 to 3 (-1 refuses); correct the policy's function"
    )
