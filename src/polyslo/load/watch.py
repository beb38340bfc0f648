"""The generator watching itself: whoever measures with a tool that can't keep up measures the tool.

Three things are watched: how late requests were sent, how late a periodic timer of the event loop fired (tokens
were read at least that late), and how much of one core the process used. The bound on the first two is a tenth of
the tightest TPOT, and 5 ms at most, and a timer's step on top, which is nobody's fault; all on the wall clock.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

LAG_BOUND_S = 0.005
LAG_BOUND_RATIO = 0.1  # of the tightest TPOT
CPU_BOUND_RATIO = 0.9  # of one core: beyond it lags grow without bound
TIMER_STEP_S = 0.001  # event loops have timers of whole milliseconds


@dataclass(frozen=True, slots=True)
class Lag:
    """How late something was, in seconds of the wall clock."""

    p50_s: float
    p99_s: float
    max_s: float

    @classmethod
    def of(cls, lags_s: ArrayLike) -> Lag:
        """Summarise lags; NaN when there are none."""
        lags = np.maximum(np.asarray(lags_s, np.float64), 0.0)
        if not len(lags):
            return cls(float("nan"), float("nan"), float("nan"))
        p50_s, p99_s = np.quantile(lags, (0.5, 0.99))
        return cls(float(p50_s), float(p99_s), float(lags.max()))


@dataclass(frozen=True, slots=True)
class GeneratorHealth:
    """How well the generator kept up; `limits` says in words where it did not, and is empty where it did."""

    send_lag: Lag
    loop_lag: Lag
    lag_bound_s: float
    cpu_ratio: float  # of one core, while there was something to send
    most_in_flight: int
    num_not_sent: int  # for want of room under the bound on requests in flight
    limits: tuple[str, ...]

    @property
    def is_limited(self) -> bool:
        """Whether the numbers may tell more about the generator than about the endpoint."""
        return bool(self.limits)


class SelfWatch:
    """Collects what `GeneratorHealth` tells, from one timer; 8 bytes a tick."""

    def __init__(self, clock: Callable[[], float], cpu_clock: Callable[[], float] = time.process_time) -> None:
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._started_s, self._cpu_started_s = clock(), cpu_clock()
        self._sending_cpu_ratio: float | None = None
        self._loop_lags_s = array("d")
        self.most_in_flight = 0
        self.num_not_sent = 0

    def tick(self, due_s: float, num_in_flight: int) -> None:
        """Note that the timer that was due at `due_s` has fired."""
        self._loop_lags_s.append(self._clock() - due_s)
        if num_in_flight > self.most_in_flight:
            self.most_in_flight = num_in_flight

    def note_last_sent(self) -> None:
        """Fix the share of a core: waiting for the last answers takes none, and must not water it down."""
        self._sending_cpu_ratio = self._cpu_ratio()

    def health(self, send_lags_s: ArrayLike, tightest_tpot_s: float) -> GeneratorHealth:
        """Judge how the generator kept up since it was made."""
        bound_s = TIMER_STEP_S + min(LAG_BOUND_S, LAG_BOUND_RATIO * tightest_tpot_s)
        send_lag, loop_lag = Lag.of(send_lags_s), Lag.of(self._loop_lags_s)
        cpu_ratio = self._cpu_ratio() if self._sending_cpu_ratio is None else self._sending_cpu_ratio
        limits = []
        for name, lag in (("requests were sent", send_lag), ("the event loop woke", loop_lag)):
            if lag.p99_s > bound_s:
                limits.append(f"{name} {1e3 * lag.p99_s:.1f} ms late at p99, the bound is {1e3 * bound_s:.1f} ms")
        if cpu_ratio > CPU_BOUND_RATIO:
            limits.append(f"it used {cpu_ratio:.0%} of one core, the bound is {CPU_BOUND_RATIO:.0%}")
        if self.num_not_sent:
            limits.append(f"{self.num_not_sent:,} requests were not sent, as too many were in flight")
        return GeneratorHealth(
            send_lag, loop_lag, bound_s, cpu_ratio, self.most_in_flight, self.num_not_sent, tuple(limits)
        )

    def _cpu_ratio(self) -> float:
        wall_s = self._clock() - self._started_s
        return (self._cpu_clock() - self._cpu_started_s) / wall_s if wall_s > 0 else 0.0
