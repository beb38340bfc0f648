"""Time as an emulated engine sees it: an event loop's clock, faster or slower, or one that tests move by hand."""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that is due at a time."""

    def cancel(self) -> None:
        """Take it back; without effect once it was made."""


class Clock(Protocol):
    """Seconds of engine time from any origin, and calls at a time."""

    def now_s(self) -> float:
        """Return the time."""

    def call_at(self, at_s: float, function: Callable[[], None]) -> Timer:
        """Call `function` at a time or soon after it."""


class LoopClock:
    """Wall time: `speed` seconds of engine time pass in a second, from 0 on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, speed: float = 1.0) -> None:
        self._loop = loop
        self._speed = speed
        self._origin_s = time.monotonic()

    def now_s(self) -> float:
        """Return the engine time; not the loop's own, which uvloop reads once an iteration, in whole milliseconds."""
        return (time.monotonic() - self._origin_s) * self._speed

    def call_at(self, at_s: float, function: Callable[[], None]) -> Timer:
        """Call `function` at an engine time, up to about a millisecond late: loops count in whole ones."""
        delay_ms = math.ceil((at_s - self.now_s()) / self._speed * 1e3)  # uvloop would round down, and call early
        return self._loop.call_later(max(0, delay_ms) / 1e3, function)


class VirtualClock:
    """Time that passes only in `run_until`: the same calls in the same order, without waiting."""

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s
        self._calls: list[_VirtualTimer] = []
        self._num_made = 0

    def now_s(self) -> float:
        """Return the time."""
        return self._now_s

    def call_at(self, at_s: float, function: Callable[[], None]) -> Timer:
        """Have `function` called when time reaches `at_s`."""
        self._num_made += 1
        timer = _VirtualTimer(max(at_s, self._now_s), self._num_made, function)
        heapq.heappush(self._calls, timer)
        return timer

    def run_until(self, at_s: float) -> None:
        """Make all calls that are due until `at_s`, each at its time, and stay there."""
        while self._calls and self._calls[0].at_s <= at_s:
            timer = heapq.heappop(self._calls)
            if not timer.is_cancelled:
                self._now_s = max(self._now_s, timer.at_s)  # later after a `jump`
                timer.function()
        self._now_s = max(self._now_s, at_s)

    def run(self) -> None:
        """Make calls until none is left."""
        while self._calls:
            self.run_until(self._calls[0].at_s)

    def jump(self, by_s: float) -> None:
        """Let time pass without making the calls that are due: a machine that was busy."""
        self._now_s += by_s


class _VirtualTimer:
    __slots__ = ("at_s", "function", "is_cancelled", "sequence")

    def __init__(self, at_s: float, sequence: int, function: Callable[[], None]) -> None:
        self.at_s = at_s
        self.sequence = sequence
        self.function = function
        self.is_cancelled = False

    def __lt__(self, other: _VirtualTimer) -> bool:
        return (self.at_s, self.sequence) < (other.at_s, other.sequence)

    def cancel(self) -> None:
        self.is_cancelled = True
