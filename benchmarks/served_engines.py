"""Real engines with a gateway in front of them, for as long as something is measured."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from polyslo.fleets.local_process import LocalProcess

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "vllm"))
from real_engine import RealEngine  # the tests' harness
from vllm_environment import environment, why_not

__all__ = ["RealEngine", "end_in_order", "environment", "served", "why_not"]

GATEWAY_START_S = 300.0


def end_in_order() -> None:
    """Let SIGTERM end this process as an error does: engines are stopped, and not left behind."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


@asynccontextmanager
async def served(engines: Sequence[RealEngine], configuration: str, file: Path) -> AsyncIterator[str]:
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
