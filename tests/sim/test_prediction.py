"""A promise is kept (I12): where lengths are known and the profile is exact, the admitted requests attain."""

from __future__ import annotations

import numpy as np
import pytest

from polyslo.core.state import FALLBACK, NO_RUNG
from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.run import build_world
from polyslo.sim.world import ATTAINED, RELEGATED_OUT

from .invariants import run_to_end

NUM_INSTANCES, NUM_REQUESTS = 6, 4000
KEPT_RATIO = 0.999


MODELS = (  # chats short and long, code with tiny outputs, prompts of 9,000 and 12,000 tokens on average
    "azure2023-conv",
    "azure2023-code",
    "sharegpt",
    "arxiv-summarization",
    "mooncake-toolagent",
    "mooncake-conversation",
)


@pytest.mark.parametrize("seed", range(1, 7))
@pytest.mark.parametrize("load", [0.5, 0.7, 0.8, 0.95])
@pytest.mark.parametrize("mode", ["co", "pd"])
@pytest.mark.parametrize("model", MODELS)
def test_admitted_requests_attain(make_workload, optimum, profile, model, mode, load, seed):
    """I12: at least 99.9% of the requests that polyserve admits attain, at 50 to 95% of the fluid optimum."""
    reference = optimum(make_workload(NUM_REQUESTS, 100.0, seed, model), NUM_INSTANCES, mode)
    workload = make_workload(NUM_REQUESTS, round(load * reference, 3), seed, model)
    config = FleetConfig(num_instances=NUM_INSTANCES, mode=mode, lengths="known", relegate=True)
    world = build_world(workload, profile, PolicySpec.parse("polyserve"), config)
    run_to_end(world)
    rung, outcome = world.fleet.requests["rung"], world.jobs["outcome"]
    admitted = (rung != NO_RUNG) & (rung != FALLBACK) & (outcome != RELEGATED_OUT)
    kept = float(np.mean(outcome[admitted] == ATTAINED))
    assert admitted.sum() > 0.5 * NUM_REQUESTS
    assert kept >= KEPT_RATIO, f"I12: {kept:.5f} kept of {admitted.sum()} admitted"


@pytest.mark.parametrize("mode", ["co", "pd"])
def test_a_first_token_comes_by_its_prediction_or_its_deadline(make_workload, optimum, profile, mode):
    """I12: who has an earlier deadline may push a first token past its prediction, but not past its own deadline."""
    reference = optimum(make_workload(NUM_REQUESTS, 100.0), NUM_INSTANCES, mode)
    workload = make_workload(NUM_REQUESTS, round(0.8 * reference, 3))
    config = FleetConfig(num_instances=NUM_INSTANCES, mode=mode, lengths="known")
    world = build_world(workload, profile, PolicySpec.parse("polyserve"), config)
    run_to_end(world)
    rung, jobs = world.fleet.requests["rung"], world.jobs
    admitted = (rung != NO_RUNG) & (rung != FALLBACK) & (jobs["outcome"] != RELEGATED_OUT)
    due_s = np.maximum(world.fleet.requests["predicted_first_s"], jobs["first_due_s"])
    early = jobs["first_token_s"][admitted] <= due_s[admitted] + 1e-6
    assert early.mean() >= KEPT_RATIO, f"I12: {early.mean():.5f} first tokens by their prediction"
