"""A deadline that is moved far more often than it passes: moving it later is a store, not a timer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

_ROUNDING_S = 0.002  # event loops keep time in milliseconds and may wake that much early


class Deadline:
    """Calls `on_due` once when it passes; may be set again."""

    __slots__ = ("_due_s", "_handle", "_loop", "_now_s", "_on_due")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[], None]) -> None:
        self._loop = loop
        self._now_s = loop.time  # called for every piece of a stream
        self._on_due = on_due
        self._due_s = math.inf
        self._handle: asyncio.TimerHandle | None = None

    def set(self, after_s: float) -> None:
        """Let it pass `after_s` from now, instead of whenever it was to pass."""
        self._due_s = due_s = self._now_s() + after_s
        handle = self._handle
        if handle is None:
            self._handle = self._loop.call_at(due_s, self._look)
        elif due_s < handle.when():
            handle.cancel()
            self._handle = self._loop.call_at(due_s, self._look)

    def clear(self) -> None:
        """Let it not pass; the timer stays, as the next `set` is near."""
        self._due_s = math.inf

    def stop(self) -> None:
        """Let it not pass, and let go of the loop."""
        self._due_s = math.inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _look(self) -> None:
        self._handle = None
        if self._due_s == math.inf:
            return
        if self._due_s > self._now_s() + _ROUNDING_S:
            self._handle = self._loop.call_at(self._due_s, self._look)
            return
        self._due_s = math.inf
        self._on_due()
