"""When the decider is called though no request came or went: for news of streams, and because time has passed.

News is gathered for a moment and digested together: engines send a step's tokens one after the other.
"""

from __future__ import annotations

from collections.abc import Callable

from polyslo.gateway.decider import Decider
from polyslo.gateway.surroundings import Loop

TICK_S = 0.005  # while requests pend: their deadlines pass
IDLE_TICK_S = 0.1
GATHER_S = 0.002  # news is digested this long after its first piece: an engine writes a step's tokens one by one


class Heartbeat:
    """Calls a decider, until it is stopped."""

    def __init__(
        self,
        decider: Decider,
        is_busy: Callable[[], bool],
        clock: Callable[[], float],
        loop: Loop,
        gather_s: float = GATHER_S,
    ) -> None:
        """`is_busy` tells whether any request is under way: then the decider is called more often."""
        self._decider = decider
        self._is_busy = is_busy
        self._clock = clock
        self._loop = loop
        self._gather_s = gather_s
        self._digest_is_due = False
        self._ticker = loop.call_later(IDLE_TICK_S, self._tick)

    def digest_soon(self) -> None:
        """There is news: have it digested, together with what comes in the next moment."""
        if not self._digest_is_due:
            self._digest_is_due = True
            self._loop.call_later(self._gather_s, self._digest)

    def digest_now(self) -> None:
        """Digest what was seen."""
        if self._decider.has_news:
            self._decider.digest(self._clock())

    def stop(self) -> None:
        """Stop the clock and take in the last news."""
        self._ticker.cancel()
        self.digest_now()

    def _digest(self) -> None:
        self._digest_is_due = False
        self._decider.digest(self._clock())

    def _tick(self) -> None:
        try:
            self._decider.tick(self._clock())
        finally:
            self._ticker = self._loop.call_later(TICK_S if self._is_busy() else IDLE_TICK_S, self._tick)
