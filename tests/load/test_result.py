from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest

from load.fakes import workload
from polyslo.cli.load import to_json
from polyslo.load.plan import LoadPlan
from polyslo.load.records import ATTAINED, FAILED, MISSED, REFUSED, Records, Verdict
from polyslo.load.request_table import request_table
from polyslo.load.result import Percentiles, score
from polyslo.load.target import Target
from polyslo.load.watch import GeneratorHealth, Lag, SelfWatch

HEALTHY = GeneratorHealth(Lag(0, 0, 0), Lag(0, 0, 0), 0.002, 0.1, 1, 0, ())
TARGET = Target(("http://127.0.0.1:1",))


def replayed(speed: float = 1.0):
    """Return a plan of eight requests in two tiers, and what became of them; the last never ended."""
    rows = [(float(t), 10, 5, 1.0, 0.02 if t % 2 else 0.05) for t in range(8)]
    plan = LoadPlan.of(workload(*rows), speed=speed, warm_up_ratio=0.0, cool_down_ratio=0.0)
    records = Records(8)
    records.sent_s[:] = plan.send_s
    for k, verdict in enumerate(
        [Verdict(ATTAINED)] * 4 + [Verdict(MISSED), Verdict(REFUSED, "http 429"), Verdict(FAILED, "reset", "gone")]
    ):
        records.close(k, verdict)
        if verdict.outcome in (ATTAINED, MISSED):
            records.first_token_s[k] = plan.send_s[k] + (0.1 + 0.1 * k) / speed
            records.last_token_s[k] = records.first_token_s[k] + 0.08 / speed
            records.lateness_s[k] = (0.1 * k - 0.35) / speed
            records.num_tokens[k] = 5
    records.num_by_events = 5
    return plan, records


@pytest.mark.parametrize("speed", [1.0, 0.25])
def test_scores_are_in_the_workloads_time(speed):
    """What was stretched for a slow endpoint is scaled back: all numbers are those of full speed."""
    plan, records = replayed(speed)
    result = score(plan, TARGET, "m", records, HEALTHY)
    total = result.total
    assert (total.num_requests, total.num_attained, total.num_missed) == (8, 4, 1)
    assert (total.num_refused, total.num_failed, total.num_unfinished) == (1, 1, 1)
    assert total.attainment == 0.5
    assert result.window_s == pytest.approx(7.0)
    assert result.rate_rps == pytest.approx(1.0)
    assert total.goodput_rps == pytest.approx(4 / 7)
    assert total.tokens_per_s == pytest.approx(25 / 7)
    assert total.ttft.p50_s == pytest.approx(0.3)
    assert total.tpot.p99_s == pytest.approx(0.02)
    assert total.lateness_s == pytest.approx(0.05)
    assert total.errors == {"http 429": 1, "reset": 1}
    assert result.error_examples["reset"] == "gone"
    assert any("stretched by 4" in notice for notice in result.notices) == (speed != 1)


@pytest.mark.parametrize("speed", [1.0, 0.25])
def test_each_request_has_a_row(speed):
    """Times are those of full speed; what never happened is empty."""
    header, *rows = csv.reader(io.StringIO(request_table(*replayed(speed))))
    table = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["request"] for row in table] == list("01234567")
    assert [row["outcome"] for row in table] == ["attained"] * 4 + ["missed", "refused", "failed", "unfinished"]
    assert [row["error"] for row in table[4:]] == ["", "http 429", "reset", ""]
    missed = {name: float(table[4][name]) for name in ("arrival_s", "ttft_ms", "last_token_ms", "lateness_ms")}
    assert missed == pytest.approx({"arrival_s": 4.0, "ttft_ms": 500, "last_token_ms": 580, "lateness_ms": 50})
    assert (table[5]["ttft_ms"], table[5]["sent_late_ms"], table[5]["tokens"]) == ("", "0.0", "0")


def test_tiers_add_up():
    """Every scored request is in one tier."""
    result = score(*replayed()[:1], TARGET, "m", replayed()[1], HEALTHY)
    assert [tier.tpot_ms for tier in result.tiers] == [20.0, 50.0]
    assert [tier.num_requests for tier in result.tiers] == [4, 4]
    assert [tier.num_attained for tier in result.tiers] == [2, 2]
    assert result.tiers[0].errors == {"http 429": 1}


def test_what_was_never_answered_is_a_miss():
    """A replay against a server that is gone attains nothing, and has no times."""
    plan, _ = replayed()
    result = score(plan, TARGET, "m", Records(len(plan)), HEALTHY)
    assert result.attainment == 0.0
    assert result.total.num_unfinished == 8
    assert math.isnan(result.total.ttft.p50_s)
    assert result.num_sent == 0


def test_percentiles_interpolate_between_ranks():
    """As numpy does; none of nothing."""
    assert Percentiles.of(np.arange(101.0)) == Percentiles(50.0, 90.0, 99.0)
    assert Percentiles.of(np.array([1.0, 2.0])).p50_s == 1.5
    assert math.isnan(Percentiles.of(np.array([])).p99_s)


def test_answers_whose_events_were_not_tokens_are_told():
    """The reader hears that deadlines were those of other tokens, and what helps."""
    plan, records = replayed()
    records.num_disagreeing = 2
    result = score(plan, TARGET, "m", records, HEALTHY)
    assert any("2 answers had events that were not one token each" in notice for notice in result.notices)
    assert result.token_counting == "events"


def test_the_json_is_whole_and_strict():
    """NaN is null, and whether the generator was the limit is at the top."""
    plan, _ = replayed()
    text = to_json(score(plan, TARGET, "m", Records(len(plan)), HEALTHY))
    assert text.startswith('{"schema":"polyslo.load/1"')
    assert '"generator_limited":false' in text
    assert '"p50_s":null' in text
    assert "NaN" not in text


class Clock:
    """A clock that the test moves."""

    now_s = 0.0

    def __call__(self) -> float:
        """Return the time that was set."""
        return self.now_s


def health(*, loop_lag_s=0.0, send_lag_s=0.0, cpu_s=0.0, num_not_sent=0, tightest_tpot_s=0.02):
    """Return the health of a generator that was watched for a second."""
    clock, cpu = Clock(), Clock()
    watch = SelfWatch(clock, cpu)
    clock.now_s, cpu.now_s = 1.0, cpu_s
    for _ in range(100):
        watch.tick(1.0 - loop_lag_s, 3)
    watch.num_not_sent = num_not_sent
    return watch.health([send_lag_s] * 100, tightest_tpot_s)


def test_a_generator_that_keeps_up_says_nothing():
    """A lag of a timer's step is not its fault; sending early is no lag."""
    found = health(loop_lag_s=0.0005, send_lag_s=-0.0005, cpu_s=0.5)
    assert not found.is_limited
    assert (found.cpu_ratio, found.most_in_flight, found.send_lag.max_s) == (0.5, 3, 0.0)
    assert found.lag_bound_s == pytest.approx(0.003)


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        ({"send_lag_s": 0.004}, "requests were sent 4.0 ms late at p99, the bound is 3.0 ms"),
        ({"loop_lag_s": 0.008}, "the event loop woke 8.0 ms late at p99, the bound is 3.0 ms"),
        ({"cpu_s": 0.97}, "it used 97% of one core, the bound is 90%"),
        ({"num_not_sent": 4}, "4 requests were not sent, as too many were in flight"),
        ({"send_lag_s": 0.0062, "tightest_tpot_s": 1.0}, "requests were sent 6.2 ms late at p99, the bound is 6.0 ms"),
    ],
)
def test_a_generator_that_does_not_keep_up_says_so(trouble, told):
    """Each limit is told with its number and its bound."""
    found = health(**trouble)
    assert found.limits == (told,)
    assert found.is_limited


def test_waiting_for_the_last_answers_does_not_water_down_the_share_of_a_core():
    """The share is of the time in which there was something to send."""
    clock, cpu = Clock(), Clock()
    watch = SelfWatch(clock, cpu)
    clock.now_s, cpu.now_s = 1.0, 0.95
    watch.note_last_sent()
    clock.now_s = 100.0
    assert watch.health([], 0.02).cpu_ratio == 0.95
