"""Which rates `compare` runs, and what it makes of the attainments; the runs themselves are made up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from polyslo.sim import compare as module
from polyslo.sim.compare import SHARES, compare, interpolated_goodput
from polyslo.sim.results import RunResult, TierResult

FULL_RPS = 100.0


class FakeSetting:
    """Attainment falls by 0.2 for every 10 requests/s beyond a policy's knee (seed 1: 10 later)."""

    name = "made up"
    named = SimpleNamespace(name="none")
    config = SimpleNamespace(mode="co", num_instances=4)
    tpots_ms = (50.0,)
    arrivals_text = "poisson"

    def __init__(self, **knees: float) -> None:
        self.knees = knees

    def optimum_rps(self) -> float:
        """Return the same for every workload."""
        return FULL_RPS

    full_rps = optimum_rps

    def notices(self, rate_rps: float, duration_s: float) -> tuple[str, ...]:
        """Return one notice."""
        return ("3 rows dropped",)

    def extrapolations(self, largest) -> tuple[str, ...]:
        """Return one notice: what all runs together went beyond."""
        return (f"{len(list(largest))} runs beyond",)

    def run(self, specs, rate_rps: float, seed: int, duration_s: float) -> list[RunResult]:
        """Make runs up."""
        return [made_up(spec.name, rate_rps, seed, self.knees[spec.name]) for spec in specs]


def made_up(policy: str, rate_rps: float, seed: int, knee_rps: float) -> RunResult:
    """Build a run of 1,000 requests."""
    num_attained = round(1000 * min(1.0, max(0.0, 1 - (rate_rps - knee_rps - 10 * seed) / 50)))
    tier = TierResult(50.0, 1000, num_attained, 1000 - num_attained, 0, 0, 0, 0.1, 0.1, 0.01, 0.01, 100.0)
    return RunResult(policy, "co", "none", "made up", rate_rps, seed, 4, 10.0, (tier,), 100.0, 1, 0)


@pytest.fixture(autouse=True)
def no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled here."""
    monkeypatch.setattr(module, "warm_up", lambda: None)


def test_rates_go_on_only_where_the_lowest_target_is_still_attained() -> None:
    """Policies that have failed at the highest default rate are not run further; the others until they fail."""
    setting = FakeSetting(polyserve=128.0, minimal=70.0)
    comparison = compare(setting, policies=["polyserve", "minimal"], seeds=2)
    default = [share * FULL_RPS for share in SHARES]
    assert [run.rate_rps for run in comparison.runs_of("minimal") if run.seed == 0] == pytest.approx(default)
    further = [run.rate_rps for run in comparison.runs_of("polyserve") if run.seed == 0][len(default) :]
    assert further == [125.0, 140.0, 160.0]  # seed 1 attains 0.96 at 140
    assert comparison.rates_rps[-1] == 160.0
    assert not any(goodput.is_lower_bound for goodput in comparison.goodputs)
    assert comparison.notes[0] == "3 rows dropped."
    assert f"{len(comparison.runs)} runs beyond." in comparison.notes
    assert any("Rates above 110 requests/s were run only for" in note for note in comparison.notes)


def test_rates_end_at_twice_the_optimum() -> None:
    """A policy that never fails has a lower bound, and it is said to be one."""
    comparison = compare(FakeSetting(minimal=1000.0), policies=["minimal"], seeds=1)
    assert comparison.rates_rps[-1] == 2 * FULL_RPS
    assert all(goodput.is_lower_bound and goodput.rate_rps == 200.0 for goodput in comparison.goodputs)
    assert any("≥" in note for note in comparison.notes)


def test_rates_that_were_asked_for_are_the_only_ones() -> None:
    """Nothing is run beyond them; twice the same rate or policy is once."""
    comparison = compare(FakeSetting(minimal=1000.0), rates_rps=[20, 10, 20], policies=["minimal", "minimal"], seeds=1)
    assert comparison.rates_rps == (10, 20)
    assert len(comparison.runs) == 2
    assert comparison.goodputs[0].is_lower_bound


def test_goodput_is_interpolated_seed_by_seed() -> None:
    """Attainment falls from 1 at the knee to 0.8 at 10 requests/s more: 0.9 is half way."""
    runs = [made_up("p", rate, seed, 50.0) for rate in (50.0, 60.0, 70.0) for seed in (0, 1)]
    goodput = interpolated_goodput(runs, "p", 0.9, FULL_RPS)
    assert goodput.per_seed_rps == pytest.approx((55.0, 65.0))
    assert not goodput.is_lower_bound
    assert interpolated_goodput(runs, "p", 0.8, FULL_RPS).is_lower_bound  # seed 1 ends at exactly 0.8
    late = [run for run in runs if run.rate_rps == 70.0 and run.seed == 0]
    assert interpolated_goodput(late, "p", 0.9, FULL_RPS).rate_rps == 0.0
