"""A local fleet and the gateway in front of it, as one service: `polyslo up`.

The gateway is told at once when an engine ends (its requests go elsewhere) and when it is ready again. Engines that
are not needed are stopped and started by `pool.py`; to the gateway a stopped engine is an unhealthy one. Both ends of
its life are inputs of the decider like any other health news, so a journal of it replays.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from polyslo.core.state import DRAINING, FITS, UNHEALTHY
from polyslo.fleets.keeper import READY, STARTING, STOPPING, WAITING, Keeper
from polyslo.fleets.local_fleet import LocalFleet
from polyslo.fleets.pool import BUSY, COMING, IDLE, OFF, Pool, PoolRule
from polyslo.gateway.app import Gateway
from polyslo.gateway.config.gateway import GatewayConfig
from polyslo.gateway.instances.instance import Instance
from polyslo.gateway.served_model import ServedModel

POOL_PERIOD_S = 1.0

Say = Callable[[str], None]


class ServedFleet:
    """Engines, kept running, behind a gateway. `fleet` must have been made with `on_change`."""

    def __init__(self, config: GatewayConfig, pool: PoolRule, say: Say) -> None:
        self.fleet: LocalFleet
        self._config = config
        self._rule = pool
        self._say = say
        self._gateway: Gateway | None = None
        self._some_ready = asyncio.Event()

    async def serve(self) -> None:
        """Run until a signal; a second one does not wait for requests under way. Raises `InputError`."""
        stopped, hurried = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, lambda: hurried.set() if stopped.is_set() else stopped.set())
        try:
            await _first_of(stopped.wait(), self.run())
        finally:
            await _first_of(self.stop_gateway(), hurried.wait())
            await self.fleet.stop_all()

    async def run(self) -> None:
        """Start the engines, the gateway once one is ready, and look after both. Raises `InputError`."""
        for i in range(self._rule.least):
            self.fleet.start(i)
        await _first_of(self._some_ready.wait(), self.fleet.given_up())
        await self._start_gateway()
        await _first_of(self._size_pool(), self.fleet.given_up())

    async def stop_gateway(self) -> None:
        """Let requests under way end."""
        if self._gateway is not None:
            await self._gateway.stop()
            self._gateway = None

    def on_change(self, i: int, keeper: Keeper) -> None:
        """Take note of what became of an engine."""
        if keeper.state == READY:
            self._say(f"{keeper.name} is ready at {self.fleet.urls[i]}")
            self._some_ready.set()
            self._open(i)
        elif keeper.state == WAITING:
            self._say(f"{keeper.name} {keeper.reason}; it is started again, its log is {self.fleet.log_files[i]}")
            self._close(i)
        elif keeper.state == STARTING and keeper.num_starts == 1:
            self._say(f"{keeper.name} starts, its log is {self.fleet.log_files[i]}")
        elif keeper.state == STOPPING:
            self._close(i)

    async def _start_gateway(self) -> None:
        gateway = Gateway(self._config)
        await gateway.start()
        self._gateway = gateway
        for i in range(len(self.fleet.urls)):
            if not self.fleet.is_ready(i):
                self._close(i)
        for line in gateway.addresses():
            self._say(line)
        gc.collect()
        gc.freeze()

    async def _size_pool(self) -> None:
        """Start and stop engines as the pool's rule says."""
        pool = Pool(self._rule)
        while True:
            await asyncio.sleep(POOL_PERIOD_S)
            model = self._model
            assert model is not None
            standings = [self._standing(i) for i in range(len(self.fleet.urls))]
            starts, stops = pool.step(standings, int(model.fleet.pending_size.sum()), time.monotonic())
            for i in starts:
                self.fleet.start(i)
            for i in stops:
                await self._retire(i)

    def _standing(self, i: int) -> int:
        if not self.fleet.is_kept(i):
            return OFF
        instance = self._instance(i)
        if not self.fleet.is_ready(i) or instance is None:
            return COMING
        return BUSY if instance.running or instance.closed != FITS else IDLE

    async def _retire(self, i: int) -> None:
        """Stop an engine that was idle when asked, unless it has been sent something since."""
        model, instance = self._model, self._instance(i)
        if model is None or instance is None or instance.running or instance.closed != FITS:
            return
        model.close_instance(instance.index, DRAINING)
        self._say(f"engine {i} is not needed, it is stopped")
        await self.fleet.stop(i)
        model.close_instance(instance.index, UNHEALTHY)  # it is opened when it answers again

    @property
    def _model(self) -> ServedModel | None:
        return None if self._gateway is None else next(iter(self._gateway.models.values()))

    def _instance(self, i: int) -> Instance | None:
        model = self._model
        if model is None:
            return None
        return next((instance for instance in model.instances if instance.url == self.fleet.urls[i]), None)

    def _open(self, i: int) -> None:
        model, instance = self._model, self._instance(i)
        if model is not None and model.health is not None and instance is not None:
            for _ in range(self._config.health.success_threshold):
                model.health.succeeded(instance.index)

    def _close(self, i: int) -> None:
        model, instance = self._model, self._instance(i)
        if model is not None and model.health is not None and instance is not None and instance.closed == FITS:
            model.health.failed(instance.index, at_once=True)


async def _first_of(*waits: object) -> None:
    """Wait for the first of several; the others are cancelled. What it raised is raised."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        with suppress(Exception):
            await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
