"""Real engines with a gateway in front of them, for as long as something is measured."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from polyslo.fleets.local_process import LocalProcess

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "real_engines"))
from vllm_engine import VllmEngine  # the tests' harness
from vllm_environment import environment, why_not

__all__ = ["MODELS", "VllmEngine", "end_in_order", "environment", "part_cpus", "served", "why_not"]

GATEWAY_START_S = 300.0


@dataclass(frozen=True)
class Model:
    """What a benchmark must know of a model that `make engines` makes."""

    vocab: int  # token ids below it are text
    kv_capacity_tokens: int  # that an engine gets memory for
    kv_bytes_per_token: int  # keys and values x layers x heads x their size x bytes of a float32

    @property
    def kv_bytes(self) -> int:
        """Memory for keys and values."""
        return self.kv_capacity_tokens * self.kv_bytes_per_token


# Of the nano model so many tokens that the capacity of the profile that it is paced to binds before.
MODELS = {"nano": Model(1900, 1 << 20, 2 * 1 * 1 * 32 * 4), "small": Model(3900, 1 << 16, 2 * 2 * 3 * 128 * 4)}


def end_in_order() -> None:
    """Let SIGTERM end this process as an error does: engines are stopped, and not left behind."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def part_cpus(num_engines: int) -> list[int | None]:
    """Give each engine a CPU to compute on, and this process and what it starts the others, where any are left.

    Returns the engines' CPUs; None for each where there are fewer CPUs than engines.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if num_engines > len(cpus):
        return [None] * num_engines
    if num_engines < len(cpus):
        os.sched_setaffinity(0, cpus[:-num_engines])
    return list(cpus[-num_engines:])


@asynccontextmanager
async def served(engines: Sequence[VllmEngine], configuration: str, file: Path) -> AsyncIterator[str]:
    """Wait for engines and serve them; yield the gateway's address. All of them end with the block.

    `configuration` ends with the table of the model; the engines' endpoints are added, and all is written to `file`.
    """
    gateway = None
    try:
        for engine in engines:
            await asyncio.to_thread(engine.wait)
        endpoints = "\n".join(f'[[models.endpoints]]\nurl = "{engine.url}"' for engine in engines)
        file.write_text(f"{configuration}\n{endpoints}\n")
        gateway = LocalProcess("gateway", ["serve", str(file)])
        yield (await asyncio.to_thread(gateway.addresses, 1, GATEWAY_START_S))[0]
    finally:
        if gateway is not None:
            await asyncio.to_thread(gateway.stop)
        for engine in engines:
            await asyncio.to_thread(engine.stop)
