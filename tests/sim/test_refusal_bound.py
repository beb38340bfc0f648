"""The cheap bound refuses nobody whom the walk over all iterations would take (I17)."""

from __future__ import annotations

import numpy as np
import pytest

from polyslo.core.belief import arrive
from polyslo.core.forecast import foresee_first_token
from polyslo.core.state import FIRST_TOKEN, KNOWN, LEARNED
from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.loop import FINISHED, advance
from polyslo.sim.run import build_world

from .invariants import run_to_end

NUM_INSTANCES, NUM_REQUESTS = 6, 1500


def _walk(fleet, i, r, now_s, *, bounded):
    """Foresee a first token. Without the bound: lengths count as known, and nobody is there to leave."""
    residents = fleet.instances["num_residents"][i]
    if not bounded:
        fleet.settings["lengths"], fleet.instances["num_residents"][i] = KNOWN, 0
    found = foresee_first_token(fleet.handle, i, r, now_s, float(fleet.instances["budget_s"][i]))
    fleet.settings["lengths"], fleet.instances["num_residents"][i] = LEARNED, residents
    return found


@pytest.mark.parametrize(("model", "mode"), [("azure2023-conv", "co"), ("azure2023-code", "pd"), ("sharegpt", "co")])
def test_the_bound_refuses_only_what_the_walk_refuses(make_workload, optimum, profile, model, mode):
    """I17: over capacity, at 150 moments, for any instance and any request of the next twenty, soon or late due."""
    reference = optimum(make_workload(NUM_REQUESTS, 100.0, model=model), NUM_INSTANCES, mode)
    workload = make_workload(NUM_REQUESTS, round(1.2 * reference, 3), model=model)
    config = FleetConfig(num_instances=NUM_INSTANCES, mode=mode)
    world = build_world(workload, profile, PolicySpec.parse("polyserve"), config)
    fleet, random = world.fleet, np.random.default_rng(1)
    fields, fired, fitted = ["arrival_s", "first_due_s"], 0, 0
    for pause_s in np.linspace(0.1, 0.95, 150) * workload.arrival_s[-1]:
        world.clock["pause_s"] = pause_s
        assert advance(world.handle) != FINISHED
        for _ in range(20):
            i, r = int(random.integers(NUM_INSTANCES)), int(world.clock["cursor"][0] + random.integers(20))
            saved = fleet.requests[r].copy()
            for name in fields:  # it arrives now, or has waited for a while
                fleet.requests[name][r] += pause_s - saved["arrival_s"] - random.random() * workload.ttft_s[r]
            arrive(fleet.handle, r)
            quick, walked = (_walk(fleet, i, r, pause_s, bounded=b) for b in (True, False))
            assert quick[0] == walked[0], f"instance {i}, request {r} at {pause_s}: {quick}, {walked}"
            fired += quick[0] == FIRST_TOKEN and quick != walked
            fitted += walked[0] != FIRST_TOKEN
            fleet.requests[r] = saved
    assert fired > 100, "the bound was hardly tried"
    assert fitted > 100, "hardly anything fitted"
    world.clock["pause_s"] = np.inf
    run_to_end(world)
