"""Keeps one engine running: starts it, waits until it is ready, starts it again when it ends or answers no more.

Restarts wait longer each time, up to a bound, and at once again after a while of good service. An engine that never
became ready in several starts is given up, with its last words: that is a mistake in its command, not bad luck.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from polyslo.errors import InputError
from polyslo.fleets.engine_process import Process

STOPPED, STARTING, READY, WAITING, STOPPING = "stopped", "starting", "ready", "waiting", "stopping"

Launch = Callable[[], Awaitable[Process]]
IsWell = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class KeepRule:
    """How long things may take, seconds."""

    start_timeout_s: float = 900.0  # from the start to the first good look: weights are loaded, code compiled
    look_interval_s: float = 1.0
    silence_s: float = 60.0  # without a good look, then it is restarted
    first_delay_s: float = 1.0  # before a restart; doubled each time
    longest_delay_s: float = 60.0
    service_s: float = 60.0  # as long as it was ready, the next restart counts as the first
    max_first_starts: int = 3  # that may fail before it was ever ready

    def delay_s(self, num_failures: int) -> float:
        """Return how long to wait before a start, after so many failures in a row."""
        return min(self.longest_delay_s, self.first_delay_s * 2.0 ** min(num_failures - 1, 30))


class Keeper:
    """One engine. `on_change` hears of each new state."""

    def __init__(
        self,
        name: str,
        launch: Launch,
        is_well: IsWell,
        last_words: Callable[[], str],
        on_change: Callable[[Keeper], None],
        rule: KeepRule = KeepRule(),
    ) -> None:
        self.name = name
        self.state = STOPPED
        self.num_starts = 0
        self.reason = ""  # why it was last restarted
        self._launch = launch
        self._is_well = is_well
        self._last_words = last_words
        self._on_change = on_change
        self._rule = rule
        self._was_ever_ready = False

    async def keep(self) -> None:
        """Keep it running until cancelled; raises `InputError` when it is given up."""
        num_failures = 0
        try:
            while True:
                served_s = await self._serve_once()
                num_failures = 1 if served_s >= self._rule.service_s else num_failures + 1
                if not self._was_ever_ready and num_failures >= self._rule.max_first_starts:
                    raise InputError(
                        f"{self.name}: {self.reason}, in {num_failures} starts of {num_failures}; its last words: "
                        f"{self._last_words()}; correct its options"
                    )
                self._turn(WAITING)
                await asyncio.sleep(self._rule.delay_s(num_failures))
        finally:
            self._turn(STOPPED)

    async def _serve_once(self) -> float:
        """Start it and wait until it has to be started again; return how long it was ready, seconds."""
        loop = asyncio.get_running_loop()
        self.num_starts += 1
        self._turn(STARTING)
        process = await self._launched()
        ended = asyncio.ensure_future(process.ended())
        try:
            if not await self._becomes_ready(ended):
                return 0.0
            since_s = loop.time()
            self._was_ever_ready = True
            self._turn(READY)
            await self._watch(ended)
            return loop.time() - since_s
        finally:
            if not ended.done():
                self._turn(STOPPING)
            await asyncio.shield(process.stop())
            ended.cancel()

    async def _launched(self) -> Process:
        """Launch it. Not cancelled half way: asyncio (3.11) would wait forever for a process without its pipes."""
        launching = asyncio.ensure_future(self._launch())
        try:
            return await asyncio.shield(launching)
        except asyncio.CancelledError:
            await (await launching).stop()
            raise

    async def _becomes_ready(self, ended: asyncio.Future[int]) -> bool:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._rule.start_timeout_s
        while loop.time() < until_s:
            if await self._has_ended(ended):
                return False
            if await self._is_well():
                return True
        self.reason = f"was not ready within {self._rule.start_timeout_s:g} s"
        return False

    async def _watch(self, ended: asyncio.Future[int]) -> None:
        loop = asyncio.get_running_loop()
        well_s = loop.time()
        while loop.time() - well_s < self._rule.silence_s:
            if await self._has_ended(ended):
                return
            if await self._is_well():
                well_s = loop.time()
        self.reason = f"did not answer for {self._rule.silence_s:g} s"

    async def _has_ended(self, ended: asyncio.Future[int]) -> bool:
        """Wait for its end, not longer than to the next look."""
        await asyncio.wait({ended}, timeout=self._rule.look_interval_s)
        if ended.done():
            self.reason = f"ended with {ended.result()}"
        return ended.done()

    def _turn(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self._on_change(self)
