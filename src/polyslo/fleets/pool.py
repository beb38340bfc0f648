"""How many engines run: those that work, some that idle, more while requests pend.

The policy decides which instance serves which tier; this decides how many instances there are, between `least` and
`most`. An engine takes its cold start to come, so one too many is kept (`spare`) and nobody is stopped before it has
been idle for `linger_s`. Pure: the shell starts and stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BUSY, IDLE, COMING, OFF = range(4)  # COMING: it starts, or is started again


@dataclass(frozen=True, slots=True)
class PoolRule:
    """Bounds of the pool, and when it shrinks."""

    least: int
    most: int
    spare: int = 1
    linger_s: float = 300.0


class Pool:
    """Decides which engines start and stop; ask it about once a second."""

    def __init__(self, rule: PoolRule) -> None:
        self._rule = rule
        self._idle_since_s: dict[int, float] = {}

    def step(self, standings: Sequence[int], num_pending: int, now_s: float) -> tuple[list[int], list[int]]:
        """Return (engines to start, engines to stop), given what each does now."""
        self._note(standings, now_s)
        rule = self._rule
        busy = sum(standing == BUSY for standing in standings)
        up = sum(standing != OFF for standing in standings)
        wanted = min(rule.most, max(rule.least, busy + rule.spare + (1 if num_pending else 0)))
        if up < wanted:
            return [i for i, standing in enumerate(standings) if standing == OFF][: wanted - up], []
        lingered = [i for i, since_s in self._idle_since_s.items() if now_s - since_s >= rule.linger_s]
        return [], sorted(lingered, reverse=True)[: max(0, up - wanted)]

    def _note(self, standings: Sequence[int], now_s: float) -> None:
        idle = {i for i, standing in enumerate(standings) if standing == IDLE}
        self._idle_since_s = {i: self._idle_since_s.get(i, now_s) for i in sorted(idle)}
