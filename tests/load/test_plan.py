from __future__ import annotations

import numpy as np
import pytest

from load.fakes import workload
from polyslo.errors import ConfigError
from polyslo.load.plan import LoadPlan, with_drawn_ttfts
from polyslo.sim.setting import Setting

ROWS = [(5.0 + t, 10, 4, 0.3, 0.05) for t in range(11)]


def test_a_plan_starts_its_clock_with_the_first_request():
    """Whatever the trace's origin, the first request is sent at 0 and gaps stay."""
    plan = LoadPlan.of(workload(*ROWS))
    assert plan.send_s.tolist() == list(range(11))


def test_a_slow_engine_gets_all_the_more_time():
    """At half the speed, gaps, TTFTs and TPOTs are twice as long; the workload itself stays as it is."""
    plan = LoadPlan.of(workload(*ROWS), speed=0.5)
    assert plan.send_s[-1] == 20.0
    assert plan.ttft_s.tolist() == [0.6] * 11
    assert plan.tpot_s.tolist() == [0.1] * 11
    assert plan.tightest_tpot_s == 0.1
    assert plan.workload.tpot_s[0] == 0.05
    assert plan.window_s == pytest.approx(7.0)


def test_both_ends_are_sent_and_not_scored():
    """The window is that of the simulator: without the first 20% and the last 10% of the span."""
    plan = LoadPlan.of(workload(*ROWS))
    assert np.flatnonzero(plan.is_scored).tolist() == list(range(2, 10))
    assert len(plan) == 11
    everything = LoadPlan.of(workload(*ROWS), warm_up_ratio=0.0, cool_down_ratio=0.0)
    assert everything.is_scored.all()


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_a_speed_that_is_none(speed):
    """Only finite speeds above zero stretch a clock."""
    with pytest.raises(ConfigError, match=r"speed must be finite and > 0, got .*; set --speed"):
        LoadPlan.of(workload(*ROWS), speed=speed)


@pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.9, 0.1), (float("nan"), 0.1)])
def test_a_window_that_is_none(shares):
    """Warm-up and cool-down must leave something to score."""
    with pytest.raises(ConfigError, match="leave a part to score"):
        LoadPlan.of(workload(*ROWS), warm_up_ratio=shares[0], cool_down_ratio=shares[1])


def test_ttfts_can_be_kept_as_drawn(tmp_path):
    """The same requests and TPOTs, with the TTFTs of the mix alone."""
    (tmp_path / "long.csv").write_text("input_tokens,output_tokens\n60000,5\n100,5\n")
    setting = Setting.of(trace=tmp_path / "long.csv")
    raised = setting.workload(50.0, 3, duration_s=20.0)
    kept = with_drawn_ttfts(raised, setting.mix, 3)
    assert raised.num_ttft_raised > 0
    assert kept.num_ttft_raised == 0
    assert set(np.unique(kept.ttft_s)) == {0.3, 0.5, 1.0}
    same = raised.ttft_s == kept.ttft_s
    assert np.count_nonzero(~same) == raised.num_ttft_raised
    assert np.array_equal(raised.tpot_s, kept.tpot_s)
    assert np.array_equal(raised.arrival_s, kept.arrival_s)
