"""What `polyserve` does without a mechanism, and policies' options."""

from __future__ import annotations

import numpy as np
import pytest

from polyslo.errors import ConfigError
from polyslo.sim.fleet import MECHANISMS, FleetConfig, PolicySpec
from polyslo.sim.run import build_world
from polyslo.sim.setting import Setting

from .invariants import run_to_end


@pytest.fixture(scope="module")
def busy():
    """Return what runs the same busy minute under any policy and gives the world after it."""

    def world_after(policy: str, mode: str = "co", **fields):
        setting = Setting.of(instances=6, fleet=FleetConfig(mode=mode, **fields))
        workload = setting.workload(0.9 * setting.optimum_rps(), 0, duration_s=20.0)
        world = build_world(workload, setting.named.profile, PolicySpec.parse(policy), setting.config)
        run_to_end(world)
        return world

    return world_after


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_doing_without_changes_what_happens(busy, mechanism):
    """Every switch is read by somebody: the runs are not the same. (Memory must be scarce for its test to matter.)"""
    fields = {"kv_capacity_tokens": 40_000} if mechanism == "memory" else {}
    whole, without = busy("polyserve", **fields), busy(f"polyserve:without={mechanism}", **fields)
    assert np.any(whole.jobs["instance"] != without.jobs["instance"])


def test_without_binning_all_are_of_the_tightest_tier(busy):
    """No other tier ever owns an instance."""
    world = busy("polyserve:without=binning")
    assert world.fleet.group_owned_s[1:4].sum() == 0.0
    assert (world.fleet.requests["tier"] == 0).all()


def test_without_elasticity_instances_stay_where_they_are(busy):
    """The partition that the run began with is the one that it ends with, and nothing is idle."""
    world = busy("polyserve:without=elasticity")
    assert world.fleet.group_size[:4].sum() == 6
    assert world.fleet.group_owned_s[5] == 0.0


def test_without_promotion_nobody_is_promoted(busy):
    """The rung stays unused."""
    assert busy("polyserve").fleet.counters[0, 1] > 0
    assert busy("polyserve:without=promotion").fleet.counters[0, 1] == 0


def test_without_chunking_the_chunk_is_constant(busy):
    """No iteration is bounded by time, and none has more tokens than the chunk."""
    world = busy("polyserve:chunk=256,without=chunking")
    owned = world.fleet.instances["group"] < 4
    assert np.isinf(world.engines["budget_s"][owned]).all()
    assert (world.engines["chunk_limit"] == 256).all()


def test_without_the_memory_test_kv_is_not_asked_for(busy):
    """On instances with little KV the test refuses; without it nothing is refused for memory."""
    memory = 4  # polyslo.core.state.MEMORY
    assert busy("polyserve", kv_capacity_tokens=40_000).fleet.counters[1, memory] > 0
    assert busy("polyserve:without=memory", kv_capacity_tokens=40_000).fleet.counters[1, memory] == 0


def test_the_prefill_side_can_be_sized_by_the_policy(busy):
    """Disaggregated, an option fixes how many instances prefill."""
    world = busy("chunk:prefill=2", mode="pd")
    assert (world.fleet.instances["group"] == 4).sum() == 2


def test_known_lengths_can_be_wrong(busy):
    """What the router is told is the true length times the ratio."""
    told = busy("polyserve", lengths="known", known_ratio=2.0)
    first = told.fleet.requests["expected_tokens"][-1]
    assert first == 2 * told.jobs["output_tokens"][-1]


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("polyserve:without=gradents", r"unknown mechanism 'gradents'.*gradient"),
        ("minimal:without=gradient", "without is for polyserve"),
        ("chunk:prefill=none", "prefill must be a whole number of instances >= 1, got 'none'"),
    ],
)
def test_options_that_make_no_sense_are_named(policy, said):
    """What, got, allowed."""
    with pytest.raises(ConfigError, match=said):
        PolicySpec.parse(policy)


def test_a_prefill_side_must_leave_somebody_to_decode(busy):
    """As many prefill instances as there are instances is an error."""
    with pytest.raises(ConfigError, match="prefill must leave one of 6 instances to decode, got 6"):
        busy("chunk:prefill=6", mode="pd")
