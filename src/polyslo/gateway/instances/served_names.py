"""Warns of instances that serve other models than the one that they are listed for: they refuse what is sent there."""

from __future__ import annotations

import asyncio
import logging

from polyslo.gateway.instances.instance import Instance
from polyslo.wire.fetch import FetchError, fetch
from polyslo.wire.listing import listed

MODELS = b"/v1/models"
TIMEOUT_S = 2.0
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
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _compare(self, instance: Instance) -> None:
        for _ in range(TRIES):
            names = await _names(instance)
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


async def _names(instance: Instance) -> list[str]:
    """Return the models that an instance lists; none where it does not say, or not yet."""
    try:
        response = await fetch(
            instance.origin,
            b"GET",
            MODELS,
            instance.credentials,
            timeout_s=TIMEOUT_S,
            max_body_bytes=MAX_BODY_BYTES,
        )
    except FetchError:
        return []
    return [entry["id"] for entry in listed(response.body)] if response.status == 200 else []
