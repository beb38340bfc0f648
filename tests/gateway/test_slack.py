"""The slack follows how late first tokens are beside when decisions had them due, within bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from polyslo.gateway.belief.slack import LEAST_HELD, MOST_S, NUM_HELD, Slack


def observe(slack: Slack, lateness_s: list[float]) -> None:
    """Let first tokens come so late."""
    for late_s in lateness_s:
        slack.observe(6.0, 7.0, 7.0 + late_s)


def test_a_fixed_slack_stays() -> None:
    """Whatever is seen."""
    slack = Slack(0.01)
    observe(slack, [0.5] * 1000)
    assert slack.value_s == 0.01


def test_it_begins_with_the_start() -> None:
    """Until enough first tokens were seen to tell a high quantile from chance."""
    slack = Slack(0.01, learns=True)
    observe(slack, [0.05] * (LEAST_HELD - 1))
    assert slack.value_s == 0.01
    observe(slack, [0.05])
    assert slack.value_s == pytest.approx(0.05)


def test_it_covers_nearly_all() -> None:
    """Of late first tokens in random order."""
    slack, late_s = Slack(0.01, learns=True), np.random.default_rng(1).permutation(np.linspace(0.0, 0.05, NUM_HELD))
    observe(slack, late_s.tolist())
    assert np.mean(late_s <= slack.value_s) == pytest.approx(0.995, abs=0.002)


def test_what_was_long_ago_is_forgotten() -> None:
    """A busy minute leaves no slack behind."""
    slack = Slack(0.01, learns=True)
    observe(slack, [0.08] * NUM_HELD)
    observe(slack, [0.002] * NUM_HELD)
    assert slack.value_s == pytest.approx(0.002)


@pytest.mark.parametrize(("late_s", "slack_s"), [(-0.2, 0.0), (3.0, MOST_S)])
def test_it_has_bounds(late_s: float, slack_s: float) -> None:
    """Never negative, though first tokens come early; never so long that it stands for a broken forecast."""
    slack = Slack(0.01, learns=True)
    observe(slack, [late_s] * NUM_HELD)
    assert slack.value_s == slack_s


def test_what_was_promised_for_no_time_teaches_nothing() -> None:
    """Requests that are served late, or by a policy that makes no forecasts."""
    slack = Slack(0.01, learns=True)
    for _ in range(NUM_HELD):
        slack.observe(math.inf, 2.0, 3.0)
    assert slack.value_s == 0.01


def test_at_most_half_of_a_ttft_is_kept_free() -> None:
    """Short TTFTs can't spare more."""
    slack = Slack(0.1)
    assert slack.hurried_s(1.0) == pytest.approx(0.9)
    assert slack.hurried_s(0.1) == pytest.approx(0.05)
