"""The replay: an open loop that sends every request at its time, whatever became of those before it.

One timer sends what is due, another ticks: it measures the event loop, ends requests that took too long and reports
progress. Nothing here waits for an answer. The body of the next request is written when the one before it has been
sent, so that a request that is due only has to be handed to the wire.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from polyslo.errors import ConfigError
from polyslo.load.letters import Headers, Letter, Letters
from polyslo.load.plan import LoadPlan
from polyslo.load.records import FAILED, Records, Verdict
from polyslo.load.sender import Abortable, Reply
from polyslo.load.target import Target
from polyslo.load.tokens import TokenCounter
from polyslo.load.watch import TIMER_STEP_S, SelfWatch

LEAD_S = 0.1  # before the first request, for the timers to settle
TICK_S = 0.01
NUM_TICKS_A_REPORT = 25
MAX_BURST = 32  # requests sent in one go, before answers are read again
DEFAULT_TIMEOUT_S = 600.0
DEFAULT_MAX_IN_FLIGHT = 16_384

Progress = Callable[[int, int], object]


class Origin(Protocol):
    """What the replay needs of the wire's `Origin`."""

    def send(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes,
        sink: Reply,
        *,
        head_timeout_s: float,
        idle_timeout_s: float,
    ) -> Abortable:
        """Send a request; its answer is written into the sink."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a replay: requests in flight, and wall seconds from the sending of a request to its end."""

    max_in_flight: int = DEFAULT_MAX_IN_FLIGHT
    timeout_s: float = DEFAULT_TIMEOUT_S

    def __post_init__(self) -> None:
        if self.max_in_flight < 1:
            raise ConfigError(f"load: max_in_flight must be >= 1, got {self.max_in_flight}; set --max-in-flight")
        if not 0 < self.timeout_s < float("inf"):
            raise ConfigError(f"load: timeout_s must be finite and > 0, got {self.timeout_s:g}; set --timeout")


class Replay:
    """One run of a plan; `run` returns when every request has ended. Must be made inside the running loop."""

    def __init__(
        self,
        plan: LoadPlan,
        target: Target,
        letters: Letters,
        servers: Sequence[tuple[Origin, bytes]],
        *,
        limits: Limits,
        progress: Progress | None = None,
        records: Records | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.records = Records(len(plan)) if records is None else records
        self.watch = SelfWatch(clock)
        self._plan = plan
        self._target = target
        self._letters = letters
        self._servers = servers  # each with the path that requests go to
        self._limits = limits
        self._progress = progress
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._in_flight: dict[int, Reply] = {}  # in order of sending
        self._next = 0
        self._next_letter = letters.write(0)
        self._start_s = clock() + LEAD_S
        self._num_ticks = 0

    async def run(self) -> Records:
        """Send everything and wait for its end; requests in flight are aborted when it is cancelled."""
        self._send_due()
        self._arm_tick()
        try:
            await self._finished
        finally:
            self._stop()
        return self.records

    @property
    def _num_done(self) -> int:
        return self._next - len(self._in_flight)

    def _send_due(self) -> None:
        """Send what is due, at the nearest step of the timer, and come back for the next."""
        if self._finished.done():
            return
        try:
            again_s = self._send_burst()
        except Exception as error:  # a timer's exception goes to a log, and the replay would wait for ever
            self._finished.set_exception(error)
            return
        if again_s is not None:
            self._loop.call_later(again_s, self._send_due)

    def _send_burst(self) -> float | None:
        """Send up to `MAX_BURST` requests; return the seconds until the next is due, None when none is left."""
        send_s, num_requests = self._plan.send_s, len(self._plan)
        for _ in range(MAX_BURST):
            if self._next >= num_requests:
                break
            now_s = self._clock() - self._start_s
            wait_s = float(send_s[self._next]) - now_s
            if wait_s > TIMER_STEP_S / 2:
                return wait_s
            self._send(self._next, now_s)
            self._next += 1
            if self._next < num_requests:
                self._next_letter = self._letters.write(self._next)
        if self._next < num_requests:
            return 0.0
        self.watch.note_last_sent()
        self._finish_if_done()
        return None

    def _send(self, request: int, now_s: float) -> None:
        if len(self._in_flight) >= self._limits.max_in_flight:
            self.watch.num_not_sent += 1
            detail = f"{self._limits.max_in_flight:,} requests were in flight; raise --max-in-flight"
            self.records.close(request, Verdict(FAILED, "not_sent", detail))
            return
        origin, path = self._servers[request % len(self._servers)]
        letter: Letter = self._next_letter
        reply = self._reply(request)
        self._in_flight[request] = reply
        self.records.sent_s[request] = now_s
        timeout_s = self._limits.timeout_s
        call = origin.send(
            b"POST", path, letter.headers, letter.body, reply, head_timeout_s=timeout_s, idle_timeout_s=timeout_s
        )
        if reply.verdict is None:  # else it has failed already
            reply.call = call

    def _reply(self, request: int) -> Reply:
        plan = self._plan
        return Reply(
            request,
            TokenCounter(by_usage=self._target.exact_tokens),
            first_due_s=self._start_s + float(plan.send_s[request] + plan.ttft_s[request]),
            tpot_s=float(plan.tpot_s[request]),
            expected_tokens=int(plan.workload.output_tokens[request]),
            exact=self._target.output_lengths == "exact",
            clock=self._clock,
            on_end=self._on_end,
        )

    def _on_end(self, reply: Reply) -> None:
        reply.write_into(self.records, self._start_s)
        self._in_flight.pop(reply.request, None)
        self._finish_if_done()

    def _finish_if_done(self) -> None:
        if self._next >= len(self._plan) and not self._in_flight and not self._finished.done():
            self._finished.set_result(None)

    def _arm_tick(self) -> None:
        self._loop.call_later(TICK_S, self._tick, self._clock() + TICK_S)

    def _tick(self, due_s: float) -> None:
        if self._finished.done():
            return
        self.watch.tick(due_s, len(self._in_flight))
        self._give_up_overdue()
        self._num_ticks += 1
        if self._progress is not None and self._num_ticks % NUM_TICKS_A_REPORT == 0:
            self._progress(self._num_done, len(self._plan))
        self._arm_tick()

    def _give_up_overdue(self) -> None:
        """End requests that have taken too long; the oldest is the first in the table."""
        sent_before_s = self._clock() - self._start_s - self._limits.timeout_s
        while self._in_flight:
            request = next(iter(self._in_flight))
            if self.records.sent_s[request] > sent_before_s:
                return
            reply = self._in_flight[request]
            reply.give_up("timeout")
            self._on_end(reply)

    def _stop(self) -> None:
        """Abort what is still in flight, when the replay was cancelled or has failed."""
        for reply in list(self._in_flight.values()):
            reply.give_up("stopped")
        self._in_flight.clear()
        if not self._finished.done():
            self._finished.cancel()
