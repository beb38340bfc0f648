"""A run's attainment, without the rest of a run that is lost already.

Far above its goodput a policy without a ladder ends with queues of thousands of prompts, and one that forecasts walks
them for every arrival: such a run can take a hundred times as long as one that says something.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from polyslo.core.profile import Profile
from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.loop import PAUSED, advance
from polyslo.sim.run import build_world, run_world, scored_requests, summarize
from polyslo.sim.world import MISSED, REFUSED_OUT, RELEGATED_OUT, World
from polyslo.workload.workload import Workload

LOOKS = 40  # during the arrivals


def attainment_or_bound(
    workload: Workload, profile: Profile, policy: PolicySpec, config: FleetConfig, *, seed: int, least: float
) -> float:
    """Return a run's attainment; where that is sure to be below `least`, an upper bound of it that is below, too."""
    world = build_world(workload, profile, policy, config, seed=seed)
    scored = scored_requests(world, workload)
    num_scored = np.count_nonzero(scored)
    if policy.place is None and num_scored:
        for pause_s in np.linspace(world.clock["window_start_s"][0], workload.arrival_s[-1], LOOKS):
            world.clock["pause_s"] = pause_s
            if advance(world.handle) != PAUSED:
                break
            attained = 1.0 - np.count_nonzero(scored & _has_missed(world, pause_s)) / num_scored
            if attained < least:
                return float(attained)
        world.clock["pause_s"] = math.inf
    run_world(world, policy.place)
    return summarize(world, workload, policy, config, seed=seed, profile_name="").attainment


def _has_missed(world: World, now_s: float) -> npt.NDArray[np.bool_]:
    """Tell of each request whether it has missed its SLO by now, shape (n,)."""
    jobs = world.jobs
    lost = np.isin(jobs["outcome"], (MISSED, RELEGATED_OUT, REFUSED_OUT)) | (jobs["late"] == 1)
    return np.asarray(lost | (np.isnan(jobs["first_token_s"]) & (jobs["first_due_s"] < now_s)))
