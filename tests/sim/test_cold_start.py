"""Instances that are claimed, given back and claimed again before they have started."""

from __future__ import annotations

import numpy as np
import pytest

from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.loop import PAUSED, advance
from polyslo.sim.run import build_world
from polyslo.sim.setting import Setting
from polyslo.sim.world import READY

from .invariants import run_to_end


@pytest.mark.parametrize("mode", ["co", "pd"])
def test_an_instance_starts_once_at_a_time(mode):
    """However often it is claimed, one event at most ends an instance's cold start, and none begins work before it."""
    setting = Setting.of(instances=4, fleet=FleetConfig(mode=mode, cold_start_s=20.0, keep_warm_s=0.0))
    workload = setting.workload(40.0, 0, duration_s=120.0)
    world = build_world(workload, setting.named.profile, PolicySpec.parse("polyserve"), setting.config)
    starts = 0
    for pause_s in np.arange(0.25, 200.0, 0.25):
        world.clock["pause_s"] = pause_s
        if advance(world.handle) != PAUSED:
            break
        events = world.event[: world.clock["num_events"][0]]
        starting = events[events[:, 0] == READY, 1]
        starts = max(starts, len(starting))
        assert len(set(starting)) == len(starting)
        assert sorted(starting) == np.flatnonzero(world.engines["starting"]).tolist()
        early = world.engines["ready_s"] > world.clock["now_s"][0]
        assert not world.engines["busy"][early].any()
    assert starts > 0
    world.clock["pause_s"] = np.inf
    run_to_end(world)
