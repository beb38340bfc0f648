"""Experiments with a mix whose tiers are learned: the setting, its optima, and runs that keep every invariant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polyslo.errors import InputError
from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.setting import Setting
from polyslo.sim.world import ATTAINED, RELEGATED_OUT

from .invariants import run_checked


@pytest.fixture(scope="module", params=["co", "pd"])
def setting(request) -> Setting:
    """The continuous mix on 6 instances, with at most 4 learned tiers."""
    return Setting.of(slo="continuous", instances=6, mode=request.param).with_learned_tiers(4)


def test_tiers_are_learned_when_a_setting_is_made(setting):
    """They cover every request, are deterministic, and never serve more than each request at its own TPOT."""
    again = Setting.of(slo="continuous", instances=6, mode=setting.config.mode)
    assert again.mix.tpots_s[0] == 0.02
    assert again.mix.tpots_s == Setting.of(slo="continuous", instances=6, mode=setting.config.mode).mix.tpots_s
    assert sum(setting.mix.tier_shares) == pytest.approx(1.0)
    optima = [setting.with_learned_tiers(k).tiers_optimum_rps() for k in (1, 2, 4)]
    assert optima == sorted(optima)
    assert optima[-1] <= setting.optimum_rps() * 1.002


def test_a_mix_of_single_tpots_has_one_optimum():
    """Where every request asks for its tier's TPOT, both optima are the same number."""
    setting = Setting.of()
    assert setting.mix.tpots_s == (0.02, 0.03, 0.05, 0.1)
    assert setting.tiers_optimum_rps() == pytest.approx(setting.optimum_rps(), rel=1e-12)


def test_an_impossible_range_is_refused(tmp_path: Path):
    """A range that begins below what one request alone gets names that TPOT."""
    path = tmp_path / "fast.toml"
    path.write_text("ttft_ms = 300\n[tiers.chat]\ntpot_ms = {from = 1, to = 50}\nshare = 1")
    with pytest.raises(InputError, match=r"tier 'chat' \(1 ms\): no instance of .* can serve it even alone"):
        Setting.of(slo=path)


@pytest.mark.parametrize("name", ["polyserve", "static-tiers", "slo-least-load"])
def test_all_is_conserved_and_scored_by_the_request_s_own_tpot(setting, name):
    """I1-I11 with TPOTs looser than their tier's; late is what is later than the request's own TPOT."""
    workload = setting.workload(60.0, 1, duration_s=20.0)
    assert (workload.tpot_s > np.asarray(workload.tpots_s)[workload.tier]).mean() > 0.9
    profile = setting.named.profile
    world = run_checked(workload, profile, PolicySpec.parse(name), FleetConfig(6, mode=setting.config.mode))
    assert (world.jobs["tpot_s"] == workload.tpot_s).all()
    served = world.jobs["outcome"] != RELEGATED_OUT
    assert (world.jobs["outcome"][served] == ATTAINED).mean() > 0.9
