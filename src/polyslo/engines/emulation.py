"""Several emulated instances in one process, until a signal: what `polyslo emulate` runs.

One process, because eight of them would hold eight copies of the compiled code and of Python for the work of one.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import uvloop

from polyslo.engines.clock import VirtualClock
from polyslo.engines.emulated_api import BOTH
from polyslo.engines.emulated_engine import EmulatedEngine, EngineSettings
from polyslo.engines.emulated_instance import EmulatedInstance
from polyslo.engines.emulated_text import continuation, read, text_ids
from polyslo.engines.kv_transfers import KEEP_S
from polyslo.engines.output_lengths import OutputLengths
from polyslo.errors import ConfigError
from polyslo.profiles.library import NamedProfile
from polyslo.warmth import is_warm


@dataclass(frozen=True, slots=True)
class Emulation:
    """What to emulate and where. Instances have ports from `port` on; 0: any free ones."""

    named: NamedProfile
    settings: EngineSettings
    lengths: OutputLengths
    model: str
    host: str = "127.0.0.1"
    port: int = 8000
    num_instances: int = 1
    speed: float = 1.0
    chars_per_token: int = 4
    allows_faults: bool = False
    role: str = BOTH
    stream_interval: int = 1
    keep_kv_s: float = KEEP_S

    def __post_init__(self) -> None:
        """Check the ports; raises `ConfigError`."""
        if self.port and self.port + self.num_instances - 1 > 65_535:
            raise ConfigError(
                f"emulate: {self.num_instances} instances from port {self.port} on end beyond 65535; lower --port"
            )

    def run(self, say: Callable[[str], None]) -> None:
        """Serve until SIGINT or SIGTERM; `say` is told the address of each instance once it listens."""
        warm_up(self.named)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve(say))

    async def _serve(self, say: Callable[[str], None]) -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        instances: list[EmulatedInstance] = []
        try:
            for index in range(self.num_instances):
                instances.append(self._instance(index))
                await instances[-1].start()
                say(f"emulated engine of {self.named.name} at {instances[-1].url}")
            gc.collect()
            gc.freeze()  # a full collection would be a pause that no engine has
            await stopped.wait()
        finally:
            await asyncio.gather(*(instance.stop() for instance in instances))

    def _instance(self, index: int) -> EmulatedInstance:
        return EmulatedInstance(
            self.named.profile,
            replace(self.settings, seed=self.settings.seed + index) if self.settings.noise_ratio else self.settings,
            self.lengths,
            model=self.model,
            host=self.host,
            port=self.port + index if self.port else 0,
            speed=self.speed,
            chars_per_token=self.chars_per_token,
            allows_faults=self.allows_faults,
            role=self.role,
            stream_interval=self.stream_interval,
            keep_kv_s=self.keep_kv_s,
        )


def warm_up(named: NamedProfile) -> None:
    """Load the compiled code, or compile it with a word to the person who waits, before anyone waits for a token."""
    is_cold = not is_warm("polyslo.engines.emulated_world")
    if is_cold:
        print("polyslo: compiling the engine for this machine (once, up to a minute) ...", file=sys.stderr, flush=True)
    clock = VirtualClock()
    engine = EmulatedEngine(named.profile, EngineSettings(max_requests=16), clock)
    engine.submit(8, 2, lambda is_last: None)
    clock.run()
    engine.abort(engine.submit(8, 2, lambda is_last: None))
    next(continuation(read(text_ids("warm", 4))))
    if is_cold:
        print("polyslo: compiled.", file=sys.stderr, flush=True)
