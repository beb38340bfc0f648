"""A carrier: a process that has clients' and engines' connections, and asks another one what to do with requests.

`python -m polyslo.gateway.processes.carrier LINK PORT TALLY ROW ROWS`: three open files (the link to the decider's
process, the bound socket to listen on, the tally) and which of how many carriers this is. It is started by
`CarrierProcess`. It ends when it is told to drain, or at once when the other process is gone: without decisions it is
of no use. Signals are for the other process, which tells what follows from them.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import signal
import socket
import sys
from ssl import SSLContext
from time import monotonic
from typing import TYPE_CHECKING

import orjson
import uvloop

from polyslo.gateway.config.gateway import GatewayConfig
from polyslo.gateway.config.slo import KeyConfig
from polyslo.gateway.front import Front
from polyslo.gateway.over_http import OverHttp
from polyslo.gateway.processes import messages
from polyslo.gateway.processes.carried import Carried
from polyslo.gateway.processes.carried_model import CarriedModel
from polyslo.gateway.processes.link import Link, join
from polyslo.gateway.processes.messages import Said, Told
from polyslo.gateway.processes.tally import RowOfTally, Tally
from polyslo.gateway.relays.listeners import Visitor
from polyslo.gateway.relays.places import Client, Enter
from polyslo.gateway.requests.openai_errors import Refusal
from polyslo.gateway.tls import engine_context, server_context
from polyslo.wire.server import Exchange, Limits, Listener, listen_on

if TYPE_CHECKING:
    from polyslo.gateway.relays.bypass import Bypass, SawMany


class FarPlaces:
    """The `Admission` of a carrier: the other process has the places."""

    def take(self, exchange: Client, key: KeyConfig | None, enter: Enter) -> Refusal | None:
        """See `Admission`."""
        return enter()

    def leave(self, key_name: str | None) -> None:
        """See `Admission`."""

    def turn_away(self, refusal: Refusal) -> None:
        """See `Admission`."""


class FarDoorkeeper:
    """The `Doorkeeper` of a carrier: the other process counts."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def turned_away(self, visitor: Visitor, reason: str) -> None:
        """See `Doorkeeper`."""
        self._link.tell(Said.TURNED_AWAY, 0, messages.turned_away(visitor.path, visitor.headers, reason))


class Carrier:
    """A front door whose requests are decided about elsewhere."""

    def __init__(self, bound: socket.socket, row: RowOfTally) -> None:
        self._bound = bound
        self._row = row
        self._link = Link(self._take, self._lose)
        self._carried = Carried(self._link, monotonic, asyncio.get_running_loop())
        self._models: dict[str, CarriedModel] = {}
        self._config: GatewayConfig | None = None
        self._engine_context: SSLContext | None = None
        self._front: Front[Exchange] | None = None
        self._listener: Listener | None = None
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, end: socket.socket) -> None:
        """Carry, until the link ends."""
        await join(end, self._link)
        await self._over.wait()
        if self._carried.bypass is not None:
            self._carried.bypass.close()

    def _take(self, kind: int, number: int, content: bytes) -> None:
        if kind == Told.SETTINGS:
            self._configure(pickle.loads(content))
        elif kind == Told.MODELS:
            self._adopt(content)
        elif kind == Told.DRAIN:
            self._begin(self._drain(orjson.loads(content)))
        else:
            self._carried.take(kind, number, content)

    def _lose(self) -> None:
        self._over.set()

    def _begin(self, work: asyncio._CoroutineLike[None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _configure(self, config: GatewayConfig) -> None:
        """Go by a configuration from now on; where to listen was settled before."""
        self._config = config
        self._row.max_connections = config.server.max_connections
        if self._front is None:
            self._engine_context = engine_context(config.server)
            self._carried.bypass = _bypass(self._carried.saw_many) if config.server.compiled_relay else None
            self._front = Front(config, self._models, FarPlaces(), OverHttp(), doorkeeper=FarDoorkeeper(self._link))
        else:
            self._front.reconfigure(config)

    def _adopt(self, content: bytes) -> None:
        assert self._config is not None  # which is told first
        tokenizers = {model.name: model.tokenizer for model in self._config.models}
        for name, told in orjson.loads(content).items():
            if name not in self._models:
                self._models[name] = CarriedModel(name, self._carried, tokenizers[name])
            model = self._models[name]
            for origin in model.adopt(told, self._config.health.connect_timeout_s, self._engine_context):
                self._begin(origin.close())
        if self._listener is None and not self._tasks:
            self._begin(self._listen(self._config))

    async def _listen(self, config: GatewayConfig) -> None:
        server = config.server
        limits = Limits(max_header_bytes=server.max_header_bytes, max_body_bytes=server.max_body_bytes)
        assert self._front is not None
        self._listener = await listen_on(
            self._front.handle, self._bound, limits=limits, ssl=server_context(server), census=self._row
        )
        gc.collect()
        gc.freeze()
        self._link.tell(Said.READY)

    async def _drain(self, grace_s: float) -> None:
        """Let what is under way end, tell the last of it, and end."""
        if self._front is not None:
            self._front.drain()
        if self._listener is not None:
            await self._listener.close(grace_s)
        for model in self._models.values():
            for instance in model.destinations:
                await instance.origin.close()
        self._link.close()


def _bypass(saw_many: SawMany) -> Bypass | None:
    from polyslo.gateway.relays.bypass import bypass_on  # takes a second, and memory

    return bypass_on(asyncio.get_running_loop(), saw_many)


def main(link_fd: int, port_fd: int, tally_fd: int, row: int, num_rows: int) -> None:
    """Be a carrier."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    tally = RowOfTally(Tally(num_rows, tally_fd), row, 0)

    async def carry() -> None:
        await Carrier(socket.socket(fileno=port_fd), tally).run(socket.socket(fileno=link_fd))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(carry())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
