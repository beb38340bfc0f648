"""A deadline on a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from polyslo.wire.deadline import Deadline


class Timer:
    """What `Deadline` needs of a timer handle."""

    def __init__(self, when_s: float, callback: Callable[[], None]) -> None:
        self.when_s = when_s
        self.callback = callback
        self.is_cancelled = False

    def when(self) -> float:
        """Return when it is due."""
        return self.when_s

    def cancel(self) -> None:
        """Do nothing when due."""
        self.is_cancelled = True


class HandLoop:
    """What `Deadline` needs of an event loop."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[Timer] = []
        self.num_timers = 0

    def time(self) -> float:
        """Return the time."""
        return self.now_s

    def call_at(self, when_s: float, callback: Callable[[], None]) -> Any:
        """Set a timer."""
        self.num_timers += 1
        self.timers.append(Timer(when_s, callback))
        return self.timers[-1]

    def move_to(self, now_s: float) -> None:
        """Let time pass, and what is due be called."""
        while due := [t for t in self.timers if not t.is_cancelled and t.when_s <= now_s]:
            first = min(due, key=Timer.when)
            self.timers.remove(first)
            self.now_s = max(self.now_s, first.when_s)
            first.callback()
        self.now_s = now_s


def started() -> tuple[HandLoop, Deadline, list[float]]:
    """Return a loop, a deadline on it, and the times at which it passed."""
    loop = HandLoop()
    passed: list[float] = []
    deadline = Deadline(loop, lambda: passed.append(loop.now_s))  # type: ignore[arg-type]
    return loop, deadline, passed


@given(st.lists(st.one_of(st.floats(0.01, 100.0), st.none()), max_size=20), st.lists(st.floats(0.0, 50.0), max_size=20))
def test_only_the_last_setting_counts(settings_s, steps_s):
    """However often it is set, moved either way or cleared, it passes once, when it was last said to."""
    loop, deadline, passed = started()
    due_s, expected = None, []
    for after_s, step_s in zip(settings_s, steps_s, strict=False):
        if after_s is None:
            deadline.clear()
            due_s = None
        else:
            deadline.set(after_s)
            due_s = loop.now_s + after_s
        now_s = loop.now_s + step_s
        if due_s is not None and due_s <= now_s:
            expected.append(due_s)
            due_s = None
        loop.move_to(now_s)
        assert len(passed) == len(expected)
        assert all(abs(found - wanted) <= 0.002 for found, wanted in zip(passed, expected, strict=True))


def test_moving_it_later_sets_no_timer():
    """A stream of a thousand pieces within its idle time costs one timer, not a thousand."""
    loop, deadline, passed = started()
    for _ in range(1_000):
        deadline.set(10.0)
        loop.move_to(loop.now_s + 0.009)
    assert loop.num_timers == 1
    loop.move_to(100.0)
    assert len(passed) == 1


def test_stopping_lets_go_of_the_loop():
    """No timer is left behind."""
    loop, deadline, passed = started()
    deadline.set(1.0)
    deadline.stop()
    loop.move_to(10.0)
    assert passed == []
    assert loop.timers[0].is_cancelled
