"""When an engine's steps begin and end, and how a step is made to last as long as a profile says.

An engine that has work begins a step when the one before has ended: what lies between is part of what a token
costs. Paced steps follow each other on an ideal clock, so that lag does not add up; an engine that falls behind by
more than `CATCH_UP_S` loses the time, as the emulated engine does.
"""

from __future__ import annotations

from collections.abc import Callable

CATCH_UP_S = 0.05


class StepClock:
    """Times of one engine's steps, on a clock in seconds."""

    def __init__(self, now_s: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._now_s = now_s
        self._sleep = sleep
        self._ended_s: float | None = None  # the last step's end, while work goes on
        self._ideal_end_s = 0.0
        self.lost_s = 0.0  # by which paced steps fell behind for good

    def end(self, asked_s: float, goes_on: bool, lasts_s: float | None = None) -> float:
        """A step that was asked for at `asked_s` has been computed; return how long it took, in seconds.

        `lasts_s` is how long it is to last: until then this sleeps. `goes_on` says whether the engine has more to do.
        """
        follows = self._ended_s is not None
        began_s = asked_s if self._ended_s is None else self._ended_s
        if lasts_s is not None:
            self._wait(lasts_s, self._ideal_end_s if follows else asked_s)
        now_s = self._now_s()
        self._ended_s = now_s if goes_on else None
        return now_s - began_s

    def idle(self) -> None:
        """The engine has nothing to do: the next step begins when it is asked for."""
        self._ended_s = None

    def _wait(self, lasts_s: float, ideal_begin_s: float) -> None:
        self._ideal_end_s = ideal_begin_s + lasts_s
        late_s = self._now_s() - self._ideal_end_s
        if late_s < 0.0:
            self._sleep(-late_s)
        elif late_s > CATCH_UP_S:
            self.lost_s += late_s
            self._ideal_end_s += late_s
