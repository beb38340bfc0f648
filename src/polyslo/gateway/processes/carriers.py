"""The carriers of a gateway: started together, started again when one dies, told what changes, ended together.

Each listens on a socket of its own, all of them bound to the one port (SO_REUSEPORT), so that the kernel spreads
connections over them. The sockets are this process's: while a carrier is started again, clients that were given to it
wait in its socket's backlog.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
from collections.abc import Mapping
from time import monotonic

import orjson

from polyslo.errors import ConfigError
from polyslo.gateway.config.gateway import GatewayConfig
from polyslo.gateway.front import SHUTTING_DOWN
from polyslo.gateway.front_model import Admission
from polyslo.gateway.processes.carrier_process import CarrierProcess
from polyslo.gateway.processes.desk import Desk
from polyslo.gateway.processes.link import Messenger
from polyslo.gateway.processes.messages import Told
from polyslo.gateway.processes.tally import Tally
from polyslo.gateway.relays.listeners import NOBODY_AT_THE_DOOR, Doorkeeper
from polyslo.gateway.relays.relay import Relay
from polyslo.gateway.served_model import ServedModel

log = logging.getLogger("polyslo")
WATCH_PERIOD_S = 1.0
MOST_UNSENT_BYTES = 64 * 2**20  # to a carrier that takes nothing any more
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0  # before a carrier is started again; doubled each time
SETTLED_S = 60.0  # a carrier that lived so long may die again
END_S = 5.0  # beyond the grace, for what a carrier has to do after it


class Carriers:
    """All carriers; also the `Listener` that tells them which instances are open."""

    port: int

    def __init__(
        self,
        config: GatewayConfig,
        models: Mapping[str, ServedModel],
        places: Admission,
        tally: Tally,
        doorkeeper: Doorkeeper = NOBODY_AT_THE_DOOR,
    ) -> None:
        self._config = config
        self._models = models
        self._places = places
        self._tally = tally
        self._doorkeeper = doorkeeper
        self._sockets: list[socket.socket] = []
        self._processes: dict[int, CarrierProcess] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._watcher: asyncio.Task[None] | None = None
        self._is_draining = False

    @property
    def pids(self) -> dict[int, int]:
        """The processes, by carrier."""
        return {row: carrier.process.pid for row, carrier in self._processes.items()}

    async def start(self) -> None:
        """Listen with all carriers; raises `ConfigError` where that can't be."""
        server = self._config.server
        self._sockets = bind(server.host, server.port, len(self._tally.rows))
        self.port = int(self._sockets[0].getsockname()[1])
        try:
            carriers = [await self._launch(row) for row in range(len(self._sockets))]
            await asyncio.gather(*(carrier.until_ready() for carrier in carriers))
        except BaseException:
            self._end_all()
            raise
        self._keepers = [asyncio.create_task(self._keep(carrier)) for carrier in carriers]
        self._watcher = asyncio.create_task(self._watch())

    def drain(self) -> None:
        """Take nothing new from now on."""
        self._is_draining = True
        for carrier in self._processes.values():
            carrier.desk.is_draining = True
        self._places.turn_away(SHUTTING_DOWN)

    async def close(self, grace_s: float) -> None:
        """Let what is under way end within `grace_s`, then end every carrier."""
        self.drain()
        for bound in self._sockets:
            bound.close()
        for carrier in self._processes.values():
            carrier.link.tell(Told.DRAIN, 0, orjson.dumps(grace_s))
        if self._keepers:
            _, late = await asyncio.wait(self._keepers, timeout=grace_s + END_S)
            for carrier in self._processes.values():
                carrier.kill()
            await asyncio.gather(*late)
        if self._watcher is not None:
            self._watcher.cancel()

    def tell_models(self) -> None:
        """Tell every carrier of the models and instances as they are now; to be called when instances change."""
        for carrier in self._processes.values():
            carrier.desk.tell_models()

    def reconfigure(self, config: GatewayConfig) -> None:
        """Let every carrier go by another configuration: keys, classes, limits; not where it listens."""
        self._config = config
        settings = pickle.dumps(config)
        for carrier in self._processes.values():
            carrier.link.tell(Told.SETTINGS, 0, settings)
            carrier.desk.keys = {key.name: key for key in config.keys}

    def arrived(self, relay: Relay) -> None:
        """See `Listener`."""

    def decided(self, model: ServedModel, relay: Relay, kind: int, i: int) -> None:
        """See `Listener`."""

    def moved(self, model: ServedModel, i: int) -> None:
        """See `Listener`."""

    def health_changed(self, model: ServedModel, i: int) -> None:
        """See `Listener`."""
        self.tell_models()

    def finished(self, relay: Relay, outcome: str) -> None:
        """See `Listener`."""

    async def _launch(self, row: int) -> CarrierProcess:
        carrier = CarrierProcess(row, self._sockets[row], self._tally, self._desk)
        await carrier.start(pickle.dumps(self._config))
        self._processes[row] = carrier
        return carrier

    def _desk(self, messenger: Messenger) -> Desk:
        keys = {key.name: key for key in self._config.keys}
        return Desk(messenger, self._models, self._places, keys, doorkeeper=self._doorkeeper)

    async def _keep(self, carrier: CarrierProcess) -> None:
        """Start a carrier again whenever it has died."""
        pause_s, row = FIRST_PAUSE_S, carrier.row
        while True:
            began_s = monotonic()
            status = await carrier.until_ended()
            if self._is_draining:
                return
            if monotonic() - began_s > SETTLED_S:
                pause_s = FIRST_PAUSE_S
            log.error(
                "carrier %d (process %d) ended with status %d and %d requests; it is started again in %.1f s",
                row, carrier.process.pid, status, carrier.num_lost, pause_s,
            )  # fmt: skip
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            if self._is_draining:
                return
            carrier = await self._launch(row)

    async def _watch(self) -> None:
        """Tell of what changed without a word, and end carriers that take nothing any more."""
        while True:
            await asyncio.sleep(WATCH_PERIOD_S)
            self.tell_models()
            for carrier in self._processes.values():
                if carrier.link.num_unsent_bytes > MOST_UNSENT_BYTES:
                    log.error("carrier %d takes no messages; it is ended", carrier.row)
                    carrier.kill()

    def _end_all(self) -> None:
        for carrier in self._processes.values():
            carrier.kill()
        for bound in self._sockets:
            bound.close()


def bind(host: str, port: int, count: int) -> list[socket.socket]:
    """Return sockets that share a port, 0: any free one. Raises `ConfigError` where somebody else has it.

    Sharing is open to every process of the same user, so that the first one asks for the port for itself alone and
    gives it back: two gateways on one port would not notice each other.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with _bound(family, kind, protocol, address, is_shared=False) as probe:
            address = probe.getsockname()
        return [_bound(family, kind, protocol, address, is_shared=True) for _ in range(count)]
    except OSError as error:
        raise ConfigError(
            f"server.port: can't listen on {host}:{port}, {error.strerror or error}; choose another one"
        ) from error


def _bound(family: int, kind: int, protocol: int, address: tuple[object, ...], *, is_shared: bool) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    made.setblocking(False)
    return made
