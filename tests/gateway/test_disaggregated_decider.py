"""Prefill apart from decode: live decisions against the simulator's, and no trace left (G7, G8)."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from test_decider import check_empty
from virtual_fleet import VirtualFleet

from polyslo.core.state import DISPATCH, TRANSFER
from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.run import build_world, run_world
from polyslo.sim.setting import Setting
from polyslo.sim.world import ATTAINED

NUM_INSTANCES, NUM_REQUESTS, SEED = 6, 1000, 2
TOLERANCE = 0.01
CONFIG = FleetConfig(num_instances=NUM_INSTANCES, mode="pd", first_from_decode=True)
ROLES = FleetConfig(
    num_instances=NUM_INSTANCES, mode="pd", first_from_decode=True, num_prefill_only=4, num_decode_only=2
)


@cache
def _setting(config=CONFIG):
    return Setting.of(workload="azure2023-conv", fleet=config)


@cache
def _workload(ratio):
    """Return requests at a share of the fluid optimum."""
    rate_rps = ratio * _setting().optimum_rps()
    return _setting().workload(rate_rps, SEED, duration_s=NUM_REQUESTS / rate_rps)


@cache
def _simulated(policy, ratio, config):
    world = build_world(_workload(ratio), _setting().named.profile, PolicySpec.parse(policy), config)
    run_world(world)
    return float(np.mean(world.jobs["outcome"] == ATTAINED))


def serve(ratio, *, policy="polyserve", config=CONFIG, hidden=False):
    """Serve the workload live and return the fleet as it ends."""
    fleet = VirtualFleet(
        _workload(ratio), _setting().named.profile, policy=policy, config=config, hidden=hidden, num_records=2048
    )
    fleet.run()
    assert not np.isnan(fleet.last_s).any(), "a request was never served"
    check_empty(fleet.decider, 2048)
    assert not fleet.decider.streams.num_transfers[0]
    assert not any(engine.kv_tokens for engine in fleet.engines), "an engine keeps KV"
    return fleet


@pytest.mark.parametrize("ratio", [0.7, 0.9, 1.1])
@pytest.mark.parametrize("hidden", [False, True], ids=["streamed", "hidden"])
@pytest.mark.parametrize("policy", ["polyserve", "minimal"])
def test_live_decisions_attain_what_the_simulator_does(policy, hidden, ratio):
    """To a point, below and over capacity; nobody shows when KV arrives, and hidden requests show no tokens."""
    fleet = serve(ratio, policy=policy, hidden=hidden)
    assert fleet.attainment == pytest.approx(_simulated(policy, ratio, CONFIG), abs=TOLERANCE)


@pytest.mark.parametrize("policy", ["polyserve", "minimal"])
def test_instances_that_can_do_one_side_only_stay_there(policy, monkeypatch):
    """Four prefill and two decode: nobody is ever asked for the other side, and attainment is the simulator's."""
    asked = {DISPATCH: set(), TRANSFER: set()}
    carry_out = VirtualFleet._carry_out

    def watched(fleet, kind, r, i):
        if kind == TRANSFER or (kind == DISPATCH and fleet.fleet.requests["hands_over"][r]):
            asked[kind].add(i)
        carry_out(fleet, kind, r, i)

    monkeypatch.setattr(VirtualFleet, "_carry_out", watched)
    fleet = serve(0.6, policy=policy, config=ROLES)
    assert asked == {DISPATCH: {2, 3, 4, 5}, TRANSFER: {0, 1}}
    kept = float(np.mean(~fleet.late & ~fleet.relegated))  # the simulator counts no relegated one, in time or not
    assert kept == pytest.approx(_simulated(policy, 0.6, ROLES), abs=TOLERANCE)
