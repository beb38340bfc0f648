"""Engines of one kind on this machine: each with a port, GPUs, a log and a keeper; as many as are wanted run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from polyslo.fleets.engine_command import HOST, EngineSpec, gpu_env
from polyslo.fleets.engine_process import EngineProcess, Process, last_words
from polyslo.fleets.keeper import READY, STOPPED, Keeper, KeepRule
from polyslo.wire.client import Origin
from polyslo.wire.fetch import FetchError, fetch

LOOK_TIMEOUT_S = 5.0
OnChange = Callable[[int, Keeper], None]


class LocalFleet:
    """The engines of a fleet by number. `on_change` hears of every state of every engine."""

    def __init__(
        self,
        spec: EngineSpec,
        ports: Sequence[int],
        gpus: Sequence[Sequence[str]],
        log_dir: Path,
        on_change: OnChange,
        rule: KeepRule,
    ) -> None:
        self.urls = [f"http://{HOST}:{port}" for port in ports]
        self._origins = [Origin(url) for url in self.urls]
        self.log_files = [log_dir / f"engine-{i}.log" for i in range(len(ports))]
        self.keepers = [
            Keeper(
                f"engine {i}",
                partial(self._launch, spec.command(port), gpu_env(gpus[i]), self.log_files[i]),
                partial(self._is_well, i),
                partial(last_words, self.log_files[i]),
                partial(on_change, i),
                rule,
            )
            for i, port in enumerate(ports)
        ]
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def start(self, i: int) -> None:
        """Keep an engine running from now on."""
        if i not in self._tasks or self._tasks[i].done():
            self._tasks[i] = asyncio.get_running_loop().create_task(self.keepers[i].keep())

    async def stop(self, i: int) -> None:
        """End an engine, and keep it no more."""
        task = self._tasks.pop(i, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def stop_all(self) -> None:
        """End all engines at the same time."""
        await asyncio.gather(*(self.stop(i) for i in list(self._tasks)))
        for origin in self._origins:
            await origin.close()

    async def given_up(self) -> None:
        """Wait until an engine is given up; raises why. Never returns otherwise."""
        while True:
            tasks = list(self._tasks.values())
            if tasks:
                await asyncio.wait(tasks, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(1.0)
            for task in tasks:
                if task.done() and not task.cancelled():
                    task.result()

    def is_kept(self, i: int) -> bool:
        """Whether an engine is wanted: it runs, starts, or waits to be started again."""
        return i in self._tasks

    def is_ready(self, i: int) -> bool:
        """Whether an engine answered the last look."""
        return self.keepers[i].state == READY

    @property
    def num_stopped(self) -> int:
        """Engines of which no process is left."""
        return sum(keeper.state == STOPPED for keeper in self.keepers)

    async def _launch(self, command: Sequence[str], env: dict[str, str], log_file: Path) -> Process:
        return await EngineProcess.start(command, env, log_file)

    async def _is_well(self, i: int) -> bool:
        try:
            response = await fetch(self._origins[i], b"GET", b"/health", timeout_s=LOOK_TIMEOUT_S)
        except FetchError:
            return False
        return 200 <= response.status < 300
