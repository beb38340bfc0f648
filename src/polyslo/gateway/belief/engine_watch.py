"""Reads engines' own metrics again and again, and tells what they say, or that nobody is there to say anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from polyslo.gateway.belief.engine_metrics import EngineLoad, read_load
from polyslo.gateway.instances.instance import Instance
from polyslo.gateway.stopping import cancel_all
from polyslo.wire.fetch import FetchError, fetch

PATH = b"/metrics"
TIMEOUT_S = 2.0
MAX_BODY_BYTES = 4 * 1024 * 1024


class EngineWatch:
    """Watches instances; tells `read(index, load)` of every reading. One that fails is left out.

    `gone(index)` hears of an address that does not let anybody connect: an engine that was killed shows it here first.
    """

    def __init__(self, read: Callable[[int, EngineLoad], None], gone: Callable[[int], None], interval_s: float) -> None:
        self._read = read
        self._gone = gone
        self._interval_s = interval_s
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def watch(self, instance: Instance) -> None:
        """Begin to read an instance's metrics."""
        self.forget(instance.index)
        self._tasks[instance.index] = asyncio.create_task(self._follow(instance))

    def forget(self, i: int) -> None:
        """Read an instance's no more."""
        task = self._tasks.pop(i, None)
        if task is not None:
            task.cancel()

    async def stop(self) -> None:
        """Read nobody's any more."""
        await cancel_all(self._tasks.values())

    async def _follow(self, instance: Instance) -> None:
        while True:
            load = await self._look(instance)
            if load is not None:
                self._read(instance.index, load)
            await asyncio.sleep(self._interval_s)

    async def _look(self, instance: Instance) -> EngineLoad | None:
        try:
            response = await fetch(
                instance.origin,
                b"GET",
                PATH,
                instance.credentials,
                timeout_s=TIMEOUT_S,
                max_body_bytes=MAX_BODY_BYTES,
            )
        except FetchError as error:
            if error.failure.kind == "connect":
                self._gone(instance.index)
            return None
        return read_load(response.body) if response.status == 200 else None
