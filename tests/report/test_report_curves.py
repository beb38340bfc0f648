from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plausible import plausible_comparison

from polyslo.report.curves import point_at, telling_rate
from polyslo.report.labels import spread
from polyslo.report.notation import percent_text, rate_text, share_text
from polyslo.report.samples import busiest_sample, decimate, lowest, reduce_to
from polyslo.sim.results import Comparison, RunResult


def test_cost_is_a_ratio_of_sums(comparison: Comparison) -> None:
    """A seed that attained nothing makes cost high, not infinite."""
    runs = list(comparison.runs_of("polyserve", 150.0))
    failed = tuple(replace(t, num_attained=0, num_missed=t.num_requests) for t in runs[0].tiers)
    mixed = replace(comparison, runs=(replace(runs[0], tiers=failed), *runs[1:]))
    point = point_at(mixed, "polyserve", 150.0)
    assert point is not None
    whole_s = sum(run.instance_seconds for run in mixed.runs)
    assert point.cost == pytest.approx(1000 * whole_s / sum(run.num_attained for run in mixed.runs))
    assert point.lowest_attainment == 0.0


def test_the_telling_rate_is_measured_and_near_our_goodput(comparison: Comparison) -> None:
    """With a goodput of 402 the measured rate 400 is told; without goodputs, a middle one."""
    assert telling_rate(comparison) == 400.0
    assert telling_rate(replace(comparison, goodputs=())) == 350.0


def test_the_telling_rate_is_one_that_every_policy_ran(comparison: Comparison) -> None:
    """A rate that only some policies were run at can't compare them."""
    runs = tuple(r for r in comparison.runs if not (r.policy == "random" and r.rate_rps == 400.0))
    assert telling_rate(replace(comparison, runs=runs)) in (350.0, 450.0)


def test_shares_are_never_rounded_up() -> None:
    """A policy just under a target must not read as if it reached it."""
    assert share_text(0.98999) == "0.989"
    assert share_text(0.99) == "0.990"
    assert share_text(0.29) == "0.290"
    assert percent_text(0.9655) == "96.5%"
    assert share_text(math.nan) == "-"
    assert rate_text(41.25) == "41.2"


def test_decimation_keeps_peaks_of_pending_and_lows_of_attainment(run: RunResult) -> None:
    """The worst moments survive; times stay in order; a short timeline is returned as it is."""
    assert run.timeline is not None
    cut = decimate(run.timeline, 50)
    assert len(cut.time_s) == 50
    assert max(cut.pending[3]) == max(run.timeline.pending[3])
    assert lowest(cut.attainment[1]) == lowest(run.timeline.attainment[1])
    assert list(cut.time_s) == sorted(cut.time_s)
    assert decimate(cut, 50) is cut


def test_the_busiest_sample_owns_the_most_instances(run: RunResult) -> None:
    """The load gradient is shown where it has most to show."""
    assert run.timeline is not None
    sizes = [len(pairs) for pairs in run.timeline.loads]
    assert sizes[busiest_sample(run.timeline)] == max(sizes)


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 50))
def test_buckets_cover_every_value_once(values: list[int], num_buckets: int) -> None:
    """Buckets lose and repeat nothing; there are as many as asked for, or as there are values."""
    sums = reduce_to(values, num_buckets, sum)
    assert sum(sums) == sum(values)
    assert len(sums) == min(num_buckets, len(values))


@given(st.lists(st.floats(-50, 450), max_size=12))
def test_spread_labels_stay_apart_in_order_and_inside(wanted: list[float]) -> None:
    """Labels keep their order and distance and never leave the axes, however their lines end."""
    placed = spread(wanted, 18.0, 0.0, 400.0)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    stacked = [placed[i] for i in order]
    assert all(-1e-6 <= y <= 400 + 1e-6 for y in stacked)
    assert all(b - a >= 18 - 1e-6 for a, b in pairwise(stacked))


def test_labels_with_room_stay_where_their_lines_end() -> None:
    """Only labels that would overlap move."""
    assert spread([10.0, 100.0, 105.0], 18.0, 0.0, 400.0) == pytest.approx([10.0, 93.5, 111.5])


def test_a_policy_without_runs_is_left_out_of_the_shared_rates() -> None:
    """A policy that was named but not run does not empty the comparison."""
    comparison = plausible_comparison({"polyserve": 400.0, "chunk": 350.0}, with_timeline=False)
    assert telling_rate(replace(comparison, policies=("polyserve", "chunk", "ghost"))) == 400.0
