"""One emulated instance: an engine, its API and the port it listens on, with its faults."""

from __future__ import annotations

import asyncio
import contextlib

from polyslo.core.profile import Profile
from polyslo.engines.clock import LoopClock
from polyslo.engines.emulated_api import BOTH, EmulatedApi
from polyslo.engines.emulated_engine import EmulatedEngine, EngineSettings
from polyslo.engines.faults import CLOSE_STREAMS, CRASH, ERROR, SLOW, STALL, Fault
from polyslo.engines.generation import ModelFacts
from polyslo.engines.kv_transfers import KEEP_S, KvTransfers
from polyslo.engines.output_lengths import OutputLengths
from polyslo.errors import ConfigError
from polyslo.wire.server import Listener, listen

CATCH_UP_S = 0.05  # wall time; a longer pause is lost, as it would be for a real engine


class EmulatedInstance:
    """An engine behind a port. Create it inside a running event loop, then `start`."""

    def __init__(
        self,
        profile: Profile,
        settings: EngineSettings,
        lengths: OutputLengths,
        *,
        model: str,
        host: str = "127.0.0.1",
        port: int = 0,
        speed: float = 1.0,
        chars_per_token: int = 4,
        allows_faults: bool = False,
        role: str = BOTH,
        stream_interval: int = 1,
        keep_kv_s: float = KEEP_S,
    ) -> None:
        clock = LoopClock(asyncio.get_running_loop(), speed)
        self.engine = EmulatedEngine(profile, settings, clock, catch_up_s=CATCH_UP_S * speed)
        facts = ModelFacts(model, self.engine.max_model_len, chars_per_token, lengths, settings.seed)
        self.transfers = KvTransfers(
            self.engine, clock, lambda: (reachable(self._host), self._port), keep_s=keep_kv_s * speed
        )
        inflict = self.inflict if allows_faults else None
        self.api = EmulatedApi(
            self.engine,
            facts,
            speed=speed,
            inflict=inflict,
            transfers=self.transfers,
            role=role,
            stream_interval=stream_interval,
        )
        self._host = host
        self._port = port
        self._speed = speed
        self._listener: Listener | None = None
        self._ends: dict[str, asyncio.TimerHandle] = {}  # of faults that last, by kind
        self._restart: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port, once started; the same one after a crash."""
        return self._port

    @property
    def url(self) -> str:
        """The address."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    async def start(self) -> None:
        """Listen; raises `ConfigError` where that can't be."""
        try:
            self._listener = await listen(self.api.handle, self._host, self._port)
        except OSError as error:
            raise ConfigError(
                f"emulated engine: can't listen on {self._host}:{self._port}, {error.strerror or error}; "
                "choose another --port or --host"
            ) from error
        self._port = self._listener.port

    async def stop(self, grace_s: float = 2.0) -> None:
        """End all answers with `abort`, then the connections."""
        for timer in self._ends.values():
            timer.cancel()
        if self._restart is not None:
            self._restart.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._restart
        self.api.break_off()
        await self.transfers.stop()
        self.engine.close()
        await self._close_listener(grace_s)

    def inflict(self, fault: Fault) -> None:
        """Carry out a fault."""
        for_s = fault.for_s or 0.0
        if fault.kind == STALL:
            self.engine.stall(for_s * self._speed)
        elif fault.kind == SLOW:
            self.engine.slow_down(fault.factor)
            self._end_later(SLOW, for_s)
        elif fault.kind == ERROR:
            self.api.refuses_all = True
            self._end_later(ERROR, for_s)
        elif fault.kind == CLOSE_STREAMS:
            self.api.cut()
        elif fault.kind == CRASH and self._restart is None:
            self._restart = asyncio.get_running_loop().create_task(self._crash(fault.for_s))

    def _end_later(self, kind: str, for_s: float) -> None:
        if kind in self._ends:
            self._ends[kind].cancel()
        self._ends[kind] = asyncio.get_running_loop().call_later(for_s, self._end, kind)

    def _end(self, kind: str) -> None:
        del self._ends[kind]
        if kind == SLOW:
            self.engine.slow_down(1.0)
        else:
            self.api.refuses_all = False

    async def _crash(self, for_s: float | None) -> None:
        """Die, and come back empty; whoever asks meanwhile is refused by the machine's own TCP."""
        self.api.fail()
        self.transfers.forget()
        self.engine.crash()
        await self._close_listener(0.0)
        if for_s is None:
            return
        await asyncio.sleep(for_s)
        self._restart = None
        await self.start()

    async def _close_listener(self, grace_s: float) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            await listener.close(grace_s)


def reachable(host: str) -> str:
    """Return the host under which other engines reach one that listens on `host`: of any address, this machine's."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
