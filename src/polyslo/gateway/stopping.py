"""How several parts are stopped: every one of them, whatever becomes of the others.

A part that is left running has timers, tasks, sockets or a thread, and whoever closes the event loop meets them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

log = logging.getLogger("polyslo")

Stop = Callable[[], Awaitable[None] | None]


async def stop_all(stops: Iterable[Stop]) -> None:
    """Call each in order, and wait for it; then raise the first error, if any. Later ones are logged."""
    first: BaseException | None = None
    for stop in stops:
        try:
            stopping = stop()
            if stopping is not None:
                await stopping
        except BaseException as error:  # also when whoever waits is cancelled: the rest is stopped no less
            if first is None:
                first = error
            else:
                log.error("stopping: one more part failed", exc_info=error)
    if first is not None:
        raise first


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they have ended, however they did."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
