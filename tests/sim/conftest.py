"""Shared by the simulator's tests: the default profile and small workloads."""

from __future__ import annotations

from functools import cache

import pytest

from polyslo.core.fluid import LengthMoments, optimum_rps
from polyslo.profiles.library import load_profile
from polyslo.sim import bounded, run
from polyslo.workload.model import load_model
from polyslo.workload.slo import lay, load_slo_mix

from .invariants import run_to_end


@pytest.fixture(autouse=True)
def check_all_runs(monkeypatch):
    """What `simulate`, `Setting.run` and `attainment_or_bound` run to its end is watched and checked (I1 to I11)."""
    for module in (run, bounded):
        monkeypatch.setattr(module, "run_world", run_to_end)


@pytest.fixture(scope="session")
def profile():
    """The shipped default: Llama 3.1 8B on one H200."""
    return load_profile("llama-3.1-8b-h200-tp1").profile


@pytest.fixture(scope="session")
def make_workload(profile):
    """Return a function that makes a workload of n requests at a rate, with the default SLO mix."""

    @cache
    def make(n, rate_rps, seed=1, model="azure2023-conv"):
        trace = load_model(model).sample(n, rate_rps, seed, "poisson")
        return lay(trace, load_slo_mix("default"), seed, profile.idle_ttft_s)

    return make


@pytest.fixture(scope="session")
def optimum(profile):
    """Return a function that gives a workload's fluid optimum on N instances, requests per second."""

    def of(workload, num_instances, mode):
        import numpy as np

        shares = np.bincount(workload.tier, minlength=len(workload.tpots_s)) / len(workload)
        moments = LengthMoments.of(workload.input_tokens, workload.output_tokens)
        return optimum_rps(profile, workload.tpots_s, shares, moments, num_instances=num_instances, mode=mode)

    return of
