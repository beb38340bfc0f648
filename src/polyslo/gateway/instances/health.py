"""Which instances are sent new requests: what their health endpoint says, and whether their requests fail.

`/health` is not enough: a frozen engine answers it (vLLM 0.32). So failures of requests count too, and a stream that
stays silent ends in one (the client's idle timeout). An instance that joins is sent requests after one good look.
One that lets nobody connect is unhealthy at once, whoever finds out: a request, a look, or who reads its metrics. One
whose name nobody knows is so when a request has found out: names fail for all instances together, and come back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from polyslo.core.state import FITS, UNHEALTHY
from polyslo.gateway.config.server import HealthConfig
from polyslo.gateway.instances.instance import Instance
from polyslo.gateway.stopping import cancel_all
from polyslo.wire.fetch import FetchError, fetch

OK_STATUSES = range(200, 300)
JOINING_INTERVAL_S = 1.0  # between looks at an instance that joins: engines take minutes to load, and are wanted then

log = logging.getLogger("polyslo")


class Slots(Protocol):
    """Instances by slot: a roster, or a list."""

    def __getitem__(self, i: int, /) -> Instance:
        """Return a slot's instance."""


class Health:
    """Watches a model's instances; tells `close(index, reason)` what changed.

    `answers` hears of each that has begun to answer looks, for the first time or again.
    """

    def __init__(
        self,
        instances: Slots,
        close: Callable[[int, int], None],
        rule: HealthConfig,
        answers: Callable[[Instance], None] | None = None,
    ) -> None:
        self._instances = instances
        self._close = close
        self._rule = rule
        self._answers = answers
        self._num_failures: Counter[int] = Counter()  # in a row, by slot
        self._num_successes: Counter[int] = Counter()  # since it became unhealthy
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def watch(self, instance: Instance) -> None:
        """Look at an instance from now on."""
        self.forget(instance.index)
        self._tasks[instance.index] = asyncio.get_running_loop().create_task(self._watch(instance))

    def forget(self, i: int) -> None:
        """Look at a slot's instance no more, and begin anew with the one that comes next."""
        task = self._tasks.pop(i, None)
        if task is not None:
            task.cancel()
        del self._num_failures[i], self._num_successes[i]

    async def stop(self) -> None:
        """Ask no more."""
        await cancel_all(self._tasks.values())

    def succeeded(self, i: int) -> None:
        """A request or a look went well; so many in a row make an unhealthy instance healthy again."""
        instance = self._instances[i]
        self._num_failures[i] = 0
        if instance.is_joining:
            instance.is_joining = False
            self._close(i, FITS)
        if instance.closed != UNHEALTHY or instance.is_leaving:
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
        has_told = has_answered = False
        while True:
            failure = await self._look(instance)
            if failure is None:
                self.succeeded(instance.index)
                if self._answers is not None and not has_answered:
                    self._answers(instance)
            else:
                self.failed(instance.index, at_once=failure == "connect")
                if instance.is_joining and not has_told:
                    has_told = True
                    log.warning(
                        "instance %s does not answer %s yet; it joins when it does", instance.name, instance.url
                    )
            has_answered = failure is None
            soon = instance.is_joining
            await asyncio.sleep(min(JOINING_INTERVAL_S, self._rule.interval_s) if soon else self._rule.interval_s)

    async def _look(self, instance: Instance) -> str | None:
        """Return what failed, a kind of `Failure` or the status; None where all is well."""
        try:
            response = await fetch(
                instance.origin,
                b"GET",
                self._rule.path.encode(),
                instance.credentials,
                timeout_s=self._rule.timeout_s,
            )
        except FetchError as error:
            return error.failure.kind
        return None if response.status in OK_STATUSES else str(response.status)
