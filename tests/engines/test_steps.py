from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest

from polyslo.engines.scheduler_settings import SchedulerSettings
from polyslo.engines.step_clock import CATCH_UP_S, StepClock
from polyslo.engines.step_file import StepFacts, StepFile
from polyslo.engines.steps import Steps


class Time:
    """A clock that sleeping and working move."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        """Return the time."""
        return self.now_s

    def pass_by(self, for_s):
        """Let time pass."""
        self.now_s += for_s


@pytest.fixture
def time():
    """A time that nobody waits for."""
    return Time()


@pytest.fixture
def clock(time):
    """A step clock on that time."""
    return StepClock(time, time.pass_by)


def test_a_step_lasts_from_the_end_of_the_one_before(time, clock):
    """With work left over, what lies between two steps belongs to the second; after a pause nothing does."""
    asked_s = time()
    time.pass_by(0.010)
    assert clock.end(asked_s, goes_on=True) == pytest.approx(0.010)
    time.pass_by(0.002)
    asked_s = time()
    time.pass_by(0.010)
    assert clock.end(asked_s, goes_on=False) == pytest.approx(0.012)
    time.pass_by(5.0)
    asked_s = time()
    time.pass_by(0.010)
    assert clock.end(asked_s, goes_on=True) == pytest.approx(0.010)


def test_paced_steps_last_as_long_as_they_are_told(time, clock):
    """Computing and what lies between steps are part of the time that a step is to last."""
    for _ in range(50):
        asked_s = time()
        time.pass_by(0.004)
        assert clock.end(asked_s, goes_on=True, lasts_s=0.025) == pytest.approx(0.025, abs=0.0011)
        time.pass_by(0.001)
    assert time() == pytest.approx(100.0 + 50 * 0.025 + 0.001)


def test_lag_does_not_add_up(time, clock):
    """A step that is late is made up for by those that follow, within what can be caught up."""
    lasted_s = [0.010] * 5 + [0.040] + [0.010] * 5
    for work_s in lasted_s:
        asked_s = time()
        time.pass_by(work_s)
        clock.end(asked_s, goes_on=True, lasts_s=0.020)
    assert time() == pytest.approx(100.0 + len(lasted_s) * 0.020)
    assert clock.lost_s == 0.0


def test_a_long_lag_is_lost(time, clock):
    """An engine that stood still for long does not rush through what it missed."""
    asked_s = time()
    time.pass_by(1.0)
    clock.end(asked_s, goes_on=True, lasts_s=0.020)
    assert clock.lost_s > CATCH_UP_S
    asked_s = time()
    assert clock.end(asked_s, goes_on=True, lasts_s=0.020) == pytest.approx(0.020)


def test_a_step_file_is_bounded(tmp_path):
    """At its limit a file becomes FILE.1 in place of the one before: two files, the newest lines."""
    path = tmp_path / "steps.jsonl"
    file = StepFile(str(path), 1000, pytest.fail)
    facts = StepFacts(3, 16, 400, 8.0)
    for k in range(100):
        file.write(facts.line(float(k), 0.01))
    file.close()
    assert sorted(os.listdir(tmp_path)) == ["steps.jsonl", "steps.jsonl.1"]
    lines = (path.with_name("steps.jsonl.1").read_text() + path.read_text()).splitlines()
    assert path.stat().st_size <= 1000
    assert [json.loads(line)["t"] for line in lines] == list(range(100 - len(lines), 100))
    assert json.loads(lines[-1]) == {
        "t": 99.0, "decodes": 3, "chunk": 16, "kv": 400, "context": 8.0, "step_s": 0.01,
    }  # fmt: skip


def test_a_step_file_goes_on_where_it_ended(tmp_path):
    """An engine that starts again adds to the file."""
    path = tmp_path / "steps.jsonl"
    for _ in range(2):
        file = StepFile(str(path), 10_000, pytest.fail)
        file.write(StepFacts(1, 0, 5, 0.0).line(1.0, 0.01))
        file.close()
    assert len(path.read_text().splitlines()) == 2


def test_a_file_that_cant_be_written_is_complained_about_once(tmp_path):
    """Recording ends, the engine does not."""
    complaints = []
    file = StepFile(str(tmp_path / "nowhere" / "steps.jsonl"), 10_000, complaints.append)
    file.write(b"line\n")
    file.write(b"line\n")
    assert len(complaints) == 1
    assert "steps are not recorded any more" in complaints[0]


def output_of(tokens, new=(), resumed=()):
    """What vLLM's `schedule()` returns, as far as it is read."""
    return SimpleNamespace(
        num_scheduled_tokens=tokens,
        scheduled_new_reqs=[SimpleNamespace(req_id=name) for name in new],
        scheduled_cached_reqs=SimpleNamespace(resumed_req_ids=set(resumed)),
    )


def test_steps_say_what_a_profile_asks_for(tmp_path):
    """Decodes with their KV, prompt tokens with what they attended to: begun before, new, and resumed."""
    requests = {
        name: SimpleNamespace(num_computed_tokens=tokens)
        for name, tokens in {"d1": 101, "d2": 201, "half": 600, "new": 50, "resumed": 30}.items()
    }
    engine = SimpleNamespace(requests=requests, get_num_unfinished_requests=lambda: 5)
    path = tmp_path / "steps.jsonl"
    steps = Steps(engine, SchedulerSettings.parse({"steps_file": str(path)}), None, pytest.fail)
    scheduled = {"d1": 1, "d2": 1, "half": 100, "new": 50, "resumed": 30}
    output = output_of(scheduled, new=["new"], resumed=["resumed"])
    steps.begun(output, {"half"}, 0.0)
    steps.ended(output)
    steps.close()
    step = json.loads(path.read_text())
    assert (step["decodes"], step["kv"], step["chunk"]) == (2, 300, 180)
    assert step["context"] == pytest.approx((100 * 550 + 50 * 25 + 30 * 15) / 180, abs=0.06)


def test_a_step_without_tokens_is_none(tmp_path):
    """An engine that could not schedule anything has taken no step."""
    engine = SimpleNamespace(requests={}, get_num_unfinished_requests=lambda: 1)
    path = tmp_path / "steps.jsonl"
    steps = Steps(engine, SchedulerSettings.parse({"steps_file": str(path)}), None, pytest.fail)
    output = output_of({})
    steps.begun(output, set(), 0.0)
    steps.ended(output)
    assert path.read_text() == ""
