"""Results and pages that several tests read; built once, for they are immutable."""

from __future__ import annotations

import pytest
from plausible import plausible_comparison, plausible_goodputs, plausible_plan, plausible_run

from polyslo.report.page import comparison_page, goodput_page, plan_page, run_page
from polyslo.sim.results import Comparison, RunResult


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    """Five policies, six rates, three seeds, four tiers; polyserve wins and carries timelines."""
    return plausible_comparison()


@pytest.fixture(scope="session")
def run() -> RunResult:
    """One run of polyserve with a timeline."""
    return plausible_run()


@pytest.fixture(scope="session")
def comparison_html(comparison: Comparison) -> str:
    """Page of the plausible comparison."""
    return comparison_page(comparison)


@pytest.fixture(scope="session")
def run_html(run: RunResult) -> str:
    """Page of the plausible run."""
    return run_page(run)


@pytest.fixture(scope="session")
def goodput_html() -> str:
    """Page of plausible goodputs."""
    return goodput_page(plausible_goodputs())


@pytest.fixture(scope="session")
def plan_html() -> str:
    """Page of a plausible plan."""
    return plan_page(plausible_plan(), ["Arrivals: poisson."])
