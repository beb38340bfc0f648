"""Warns of instances that serve other models than the one that they are listed for: they refuse what is sent there."""

from __future__ import annotations

import asyncio
import logging

from polyslo.gateway.instances.instance import Instance
from polyslo.gateway.stopping import cancel_all
from polyslo.wire.listing import list_models

MAX_BODY_BYTES = 1024 * 1024
TRIES, PAUSE_S = 5, 2.0  # an engine's server may answer before its models are there
MOST_SHOWN = 5

log = logging.getLogger("polyslo")


class ServedNames:
    """Compares the name that requests use with what an instance says that it serves."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._tasks: set[asyncio.Task[None]] = set()

    def compare(self, instance: Instance) -> None:
        """Ask an instance that has begun to answer, and warn where it serves others; in the background."""
        task = asyncio.get_running_loop().create_task(self._compare(instance))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Ask nobody any more."""
        await cancel_all(self._tasks)

    async def _compare(self, instance: Instance) -> None:
        for _ in range(TRIES):
            cards = await list_models(instance.origin, instance.credentials, max_body_bytes=MAX_BODY_BYTES)
            names = [card["id"] for card in cards]
            if self._model in names:
                return
            if names:
                log.warning(
                    "instance %s serves %s, and is listed for %r, which it may refuse; correct name of [[models]], or "
                    "the engine's --served-model-name",
                    instance.name,
                    ", ".join(repr(name[:100]) for name in names[:MOST_SHOWN]),
                    self._model,
                )
                return
            await asyncio.sleep(PAUSE_S)
