"""What a planned fleet costs, tier by tier."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from report.plausible import plausible_plan


def test_what_tiers_own_is_shared_among_their_own_requests():
    """Instance-seconds over thousands of attained requests, over all seeds; a tier that none attained has no cost."""
    result = plausible_plan({"polyserve": 20})[0]
    for k in range(4):
        owned_s = sum(run.tiers[k].instance_seconds for run in result.runs)
        attained = sum(run.tiers[k].num_attained for run in result.runs)
        assert result.tier_cost(k) == pytest.approx(1000 * owned_s / attained)
    tiers = tuple(replace(tier, num_attained=0) for tier in result.runs[0].tiers)
    assert math.isinf(replace(result, runs=(replace(result.runs[0], tiers=tiers),)).tier_cost(0))


def test_the_fleets_cost_is_that_of_all_owners():
    """Tiers' costs, weighted by their attained requests, and prefill's add up to the fleet's."""
    for mode in ("co", "pd"):
        result = plausible_plan({"polyserve": 20}, mode=mode)[0]
        attained = [sum(run.tiers[k].num_attained for run in result.runs) for k in range(4)]
        of_tiers = sum(result.tier_cost(k) * count for k, count in enumerate(attained)) / sum(attained)
        prefill_s = sum(result.mean_prefill_instances() * run.span_s for run in result.runs)
        assert of_tiers + 1000 * prefill_s / sum(attained) == pytest.approx(result.cost())
