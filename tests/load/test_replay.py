from __future__ import annotations

import asyncio
import json

import pytest

from load.fakes import DONE, FakeOrigin, event, run_virtually, workload
from polyslo.errors import ConfigError
from polyslo.load.letters import Letters
from polyslo.load.plan import LoadPlan
from polyslo.load.records import ATTAINED, FAILED, MISSED, UNFINISHED
from polyslo.load.replay import LEAD_S, Limits, Replay
from polyslo.load.target import Target
from polyslo.wire.client import Failure

TARGET = Target(("http://a", "http://b"))


def steps(first_s: float, num_tokens: int = 3, gap_s: float = 0.01):
    """Return the script of an answer."""
    tokens = [(first_s + k * gap_s, event(finish="length" if k == num_tokens - 1 else None)) for k in range(num_tokens)]
    end_s = first_s + num_tokens * gap_s
    return [(0.001, 200), *tokens, (end_s, DONE), (end_s + 0.001, None)]  # timers of one time have no order


def play(plan, *origins, limits=None, progress=None):
    """Replay a plan against origins in virtual time; return the replay and when it ended."""

    async def main():
        loop = asyncio.get_running_loop()
        replay = Replay(
            plan,
            TARGET,
            Letters(plan, TARGET, "m"),
            [(origin, b"/v1/completions") for origin in origins],
            limits=limits or Limits(),
            progress=progress,
            clock=loop.time,
        )
        await replay.run()
        return replay, loop.time()

    return run_virtually(main)


def rows(*arrivals_s: float, ttft_s: float = 0.3):
    """Return a plan of requests of three tokens each."""
    return LoadPlan.of(workload(*((t, 8, 3, ttft_s, 0.02) for t in arrivals_s)))


def test_requests_are_sent_at_their_times_whatever_became_of_others():
    """The loop is open: answers that take for ever change no sending time."""
    arrivals_s = (0.0, 0.1, 0.1, 0.25, 1.0)
    origin = FakeOrigin(lambda k: steps(first_s=30.0))
    replay, _ = play(rows(*arrivals_s, ttft_s=100.0), origin)
    sent_s = [at_s - LEAD_S for at_s, *_ in origin.sent]
    assert sent_s == pytest.approx(arrivals_s, abs=0.001)
    assert replay.records.sent_s == pytest.approx(arrivals_s, abs=0.001)
    assert (replay.records.outcome == ATTAINED).all()
    assert replay.watch.most_in_flight == 5


def test_a_slow_endpoint_is_sent_to_slowly():
    """With a speed of a tenth, gaps are ten times as long, and so may answers be."""
    origin = FakeOrigin(lambda k: steps(first_s=2.9, gap_s=0.1))
    plan = LoadPlan.of(workload((0.0, 8, 3, 0.3, 0.02), (0.5, 8, 3, 0.3, 0.02)), speed=0.1)
    replay, _ = play(plan, origin)
    assert origin.sent[1][0] - origin.sent[0][0] == pytest.approx(5.0, abs=0.001)
    assert (replay.records.outcome == ATTAINED).all()


def test_servers_take_turns():
    """The k-th request goes to the k-th server, around."""
    origins = [FakeOrigin(lambda k: steps(0.01)), FakeOrigin(lambda k: steps(0.01))]
    play(rows(*(0.1 * k for k in range(5))), *origins)
    assert [len(origin.sent) for origin in origins] == [3, 2]
    assert json.loads(origins[0].sent[0][3])["max_tokens"] == 3


def test_a_late_answer_is_a_miss_and_a_broken_one_a_failure():
    """Each request has its own end."""
    scripts = [steps(0.1), steps(0.31), [(0.05, Failure("reset", "closed", started=False))]]
    replay, _ = play(rows(0.0, 0.0, 0.0), FakeOrigin(lambda k: scripts[k]))
    assert replay.records.outcome.tolist() == [ATTAINED, MISSED, FAILED]
    assert replay.records.kinds[replay.records.kind[2]] == "reset"


def test_requests_that_take_too_long_are_aborted():
    """The replay ends although an engine never answers, and calls those requests unfinished."""
    origin = FakeOrigin(lambda k: [] if k == 0 else steps(0.1))
    replay, ended_s = play(rows(0.0, 0.5), origin, limits=Limits(timeout_s=2.0))
    assert replay.records.outcome.tolist() == [UNFINISHED, ATTAINED]
    assert [call.aborted for call in origin.calls] == [True, False]
    assert ended_s == pytest.approx(LEAD_S + 2.0, abs=0.05)


def test_beyond_the_bound_in_flight_requests_are_not_sent():
    """They count as failed, and the generator says that it was the limit."""
    origin = FakeOrigin(lambda k: steps(5.0))
    replay, _ = play(rows(0.0, 0.1, 0.2, 6.0, ttft_s=10.0), origin, limits=Limits(max_in_flight=2))
    assert replay.records.outcome.tolist() == [ATTAINED, ATTAINED, FAILED, ATTAINED]
    assert len(origin.sent) == 3
    health = replay.watch.health([0.0], 0.02)
    assert "1 requests were not sent, as too many were in flight" in health.limits


def test_a_replay_that_is_cancelled_aborts_what_is_in_flight():
    """Nothing goes on behind the caller's back."""
    origin = FakeOrigin(lambda k: [])

    async def main():
        loop = asyncio.get_running_loop()
        plan = rows(0.0, 0.1, 50.0)
        replay = Replay(plan, TARGET, Letters(plan, TARGET, "m"), [(origin, b"/")], limits=Limits(), clock=loop.time)
        task = loop.create_task(replay.run())
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(100.0)

    run_virtually(main)
    assert len(origin.sent) == 2
    assert all(call.aborted for call in origin.calls)


def test_a_mistake_while_sending_ends_the_replay():
    """What goes wrong in a timer comes out of `run`, and does not leave it waiting."""

    def script(k):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        play(rows(0.0, 0.1), FakeOrigin(script))


def test_progress_counts_what_has_ended():
    """It never falls and knows the whole."""
    seen = []
    play(rows(*(0.1 * k for k in range(40))), FakeOrigin(lambda k: steps(0.01)), progress=lambda *x: seen.append(x))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {40}
    assert seen[-1][0] > 20


@pytest.mark.parametrize("options", [{"max_in_flight": 0}, {"timeout_s": 0.0}, {"timeout_s": float("inf")}])
def test_limits_that_are_none(options):
    """Bounds are positive and finite."""
    with pytest.raises(ConfigError, match="got"):
        Limits(**options)
