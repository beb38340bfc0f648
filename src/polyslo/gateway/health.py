"""Which instances are sent new requests: what their health endpoint says, and whether their requests fail.

`/health` is not enough: a frozen engine answers it (vLLM 0.32). So failures of requests count too, and a stream that
stays silent ends in one (the client's idle timeout).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from polyslo.core.state import FITS, UNHEALTHY
from polyslo.gateway.config_server import HealthConfig
from polyslo.gateway.instance import Instance
from polyslo.wire.fetch import FetchError, fetch

OK_STATUSES = range(200, 300)


class Health:
    """Watches a model's instances; tells `close(index, reason)` what changed."""

    def __init__(self, instances: Sequence[Instance], close: Callable[[int, int], None], rule: HealthConfig) -> None:
        self._instances = instances
        self._close = close
        self._rule = rule
        self._num_failures = [0] * len(instances)
        self._num_successes = [0] * len(instances)  # since it became unhealthy
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to ask every instance in turn."""
        self._tasks = [asyncio.create_task(self._watch(instance)) for instance in self._instances]

    async def stop(self) -> None:
        """Ask no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def succeeded(self, i: int) -> None:
        """A request or a look went well; so many in a row make an unhealthy instance healthy again."""
        self._num_failures[i] = 0
        if self._instances[i].closed != UNHEALTHY:
            return
        self._num_successes[i] += 1
        if self._num_successes[i] >= self._rule.success_threshold:
            self._close(i, FITS)

    def failed(self, i: int, *, at_once: bool = False) -> None:
        """A request or a look failed; one that could not even connect counts as many."""
        self._num_successes[i] = 0
        self._num_failures[i] += self._rule.failure_threshold if at_once else 1
        if self._num_failures[i] >= self._rule.failure_threshold and self._instances[i].closed == FITS:
            self._close(i, UNHEALTHY)

    async def _watch(self, instance: Instance) -> None:
        while True:
            if await self._is_well(instance):
                self.succeeded(instance.index)
            else:
                self.failed(instance.index)
            await asyncio.sleep(self._rule.interval_s)

    async def _is_well(self, instance: Instance) -> bool:
        try:
            response = await fetch(
                instance.origin,
                b"GET",
                self._rule.path.encode(),
                instance.credentials,
                timeout_s=self._rule.timeout_s,
            )
        except FetchError:
            return False
        return response.status in OK_STATUSES
