"""How late the event loop is: a call that is due ten times a second, and when it really comes.

Everything that the gateway does happens on one thread, so whatever holds it up holds up every stream; this is where
that shows first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

PERIOD_S = 0.1


class LoopLag:
    """Tells `observe` how late each call came."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0

    def start(self) -> None:
        """Begin."""
        self._due_s = monotonic() + PERIOD_S
        self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self._tick)

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self._observe(max(0.0, monotonic() - self._due_s))
        self.start()
