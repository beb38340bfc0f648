"""The gateway, put together: models and their fleets, the front door, the management port, health, shutdown."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from functools import partial
from ssl import SSLContext
from time import monotonic
from typing import Any

import uvloop

from polyslo.errors import ConfigError
from polyslo.gateway.belief.engine_watch import EngineWatch
from polyslo.gateway.belief.lookouts import Lookouts
from polyslo.gateway.belief.reconciliation import Reconciliation
from polyslo.gateway.belief.slack import Slack
from polyslo.gateway.belief.tokens import estimates
from polyslo.gateway.config.gateway import GatewayConfig
from polyslo.gateway.config.models import ANY_MODEL, LEARN, ModelConfig
from polyslo.gateway.fleets import live_fleet
from polyslo.gateway.front import Front
from polyslo.gateway.heartbeat import GATHER_S
from polyslo.gateway.instances.changes import Changes, engine_key
from polyslo.gateway.instances.health import Health
from polyslo.gateway.instances.instance import CONFIGURED, LISTED, Instance
from polyslo.gateway.instances.listed import with_listed
from polyslo.gateway.instances.origins import Origins
from polyslo.gateway.instances.served_names import ServedNames
from polyslo.gateway.journal.journals import Journals
from polyslo.gateway.management import Management
from polyslo.gateway.observability.client_metrics import ClientMetrics
from polyslo.gateway.observability.engine_load_metrics import EngineLoads
from polyslo.gateway.observability.log import DoorLog, RequestLog
from polyslo.gateway.observability.loop_lag import LoopLag
from polyslo.gateway.observability.metrics import Metrics
from polyslo.gateway.observability.process_metrics import ProcessMetrics
from polyslo.gateway.observability.traces import open_traces
from polyslo.gateway.over_http import OverHttp
from polyslo.gateway.page.board import Board
from polyslo.gateway.picker.picker import Picker
from polyslo.gateway.processes.carriers import Carriers
from polyslo.gateway.processes.tally import RowOfTally, Tally
from polyslo.gateway.relays.answers import Answers
from polyslo.gateway.relays.bypass import Bypass, bypass_on
from polyslo.gateway.relays.errands import Patience
from polyslo.gateway.relays.listeners import Doorkeeper, Doorkeepers, Listeners
from polyslo.gateway.relays.listeners import Listener as Watches
from polyslo.gateway.relays.places import Places
from polyslo.gateway.served_model import ServedModel
from polyslo.gateway.stopping import stop_all
from polyslo.gateway.tls import engine_context, server_context
from polyslo.wire.server import Census, Exchange, Handler, Limits, Listener, listen

log = logging.getLogger("polyslo")
WATCH_PERIOD_S = 1.0
FAR_GATHER_S = 0.001  # carriers have gathered before
MANAGEMENT_LIMITS = Limits(max_body_bytes=1 << 20)


def run(
    config: GatewayConfig,
    say: Callable[[str], None],
    file: str | None = None,
    reread: Callable[[], GatewayConfig] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; `say` is told where. See `Gateway` for `file` and `reread`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Gateway(config, file, reread).serve(say))


class Gateway:
    """A gateway process."""

    def __init__(
        self, config: GatewayConfig, file: str | None = None, reread: Callable[[], GatewayConfig] | None = None
    ) -> None:
        """`reread` returns the configuration as its `file` has it now."""
        self.written = config
        self.config = with_listed(config)
        self._file, self._reread = file, reread or (lambda: config)
        self.models: dict[str, ServedModel] = {}
        self.boards: dict[str, Board] = {}
        self._policies: dict[str, tuple[str, str]] = {}
        self.journals = Journals(self.config)

    async def serve(self, say: Callable[[str], None]) -> None:
        """Listen, until a signal; then let what is under way end."""
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        await self.start()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.changes.reloads.ask)
        for line in self.addresses():
            say(line)
        gc.collect()
        gc.freeze()
        try:
            await stopped.wait()
        finally:
            await self.stop()

    async def start(self) -> None:
        """Build the fleets and listen; raises `ConfigError` where that can't be."""
        config, server = self.config, self.config.server
        self.metrics = Metrics(self.models, config)
        self.traces = open_traces(config.telemetry)
        self.origins = Origins(config.health.connect_timeout_s, engine_context(server))
        doorkeeper = Doorkeepers([self.metrics, DoorLog(log), *self.traces.doorkeepers])
        self.places = Places(server, doorkeeper=doorkeeper)
        self.tally = Tally(server.processes)
        self.metrics.register(ClientMetrics(self.tally))
        carriers = self._carriers(doorkeeper)
        for model in config.models:
            board = self.boards[model.name] = Board(monotonic, len(config.tiers_s))
            outcomes = self.journals.listeners(model.name)
            told = [self.metrics.of(model.name), *self.traces.listeners(model.name)]
            listeners = Listeners([board, RequestLog(log, model.name), *told, self.places, *outcomes, *carriers])
            served = self.models[model.name] = self._served(model, listeners)
            self.metrics.watch(served)
        for served in self.models.values():
            served.bypass = self._bypass(served)
        self.journals.start(self.models, {name: policy for name, (policy, _) in self._policies.items()}, self.metrics)
        self._watches = {model.name: self._watches_of(model) for model in config.models}
        self.front: Front[Exchange] | Carriers = (
            carriers[0] if carriers else Front(config, self.models, self.places, OverHttp(), doorkeeper=doorkeeper)
        )
        self.picker = None if server.ext_proc_port is None else Picker(config, self.models, self.places, doorkeeper)
        self._fronts = [self.front] if self.picker is None else [self.front, self.picker.front]
        self.changes = Changes(
            self.written,
            self.models,
            self._watches,
            self.origins,
            self._fronts,
            self.journals,
            self._file,
            self._reread,
        )
        self.metrics.register(self.changes.reloads)
        self.metrics.register(EngineLoads(self.models))
        self.management = Management(
            self.models, self.snapshot, self.story, self.metrics.pieces, self.changes.workers, self.changes.view_keys
        )
        self.listener = await self._open(self.front)
        if self.picker is not None:
            await self.picker.port.start()
        self.management_listener = await _listen(
            self.management.handle,
            server.metrics_host,
            server.metrics_port,
            "metrics_port",
            MANAGEMENT_LIMITS,
            server_context(server) if server.metrics_tls else None,
        )
        own = ProcessMetrics(self.metrics.registry, config, self.places)
        self.metrics.register(own)
        self._lag = LoopLag(own.lag.observe)
        self._lag.start()
        for name, served in self.models.items():
            for instance in served.instances:
                self._watches[name].watch(instance)
        self.changes.start()
        self._watch_boards()

    async def stop(self) -> None:
        """Refuse what is new, let what is under way end within the grace, close; see `stop_all` for errors."""
        await stop_all(
            (
                *(front.drain for front in self._fronts),
                self._board_timer.cancel,
                self._lag.stop,
                self.management.stop,
                self.changes.stop,
                self._close_doors,
                lambda: self.management_listener.close(0.0),
                *(model.bypass.close for model in self.models.values() if model.bypass is not None),
                *(watches.stop for watches in self._watches.values()),
                *(model.stop for model in self.models.values()),
                self.origins.stop,
                self.journals.stop,
                self.tally.close,
                self.traces.stop,
            )
        )

    def addresses(self) -> list[str]:
        """Say where to find what."""
        server = self.config.server
        scheme, other = ("https" if speaks_tls else "http" for speaks_tls in (server.tls_cert_file, server.metrics_tls))
        count = sum(len(model.instances) for model in self.models.values())
        lines = [
            f"polyslo serves {count} instances at {scheme}://{server.host}:{self.listener.port}",
            f"page and metrics at {other}://{server.metrics_host}:{self.management_listener.port}/",
        ]
        if self.picker is not None:
            lines.insert(1, f"endpoints for Envoy are picked at {server.host}:{self.picker.port.port} (ext_proc)")
        return lines

    def snapshot(self, name: str) -> dict[str, Any]:
        """Return what the page shows of a model."""
        scheme = "https" if self.config.server.tls_cert_file else "http"
        return {
            **self.boards[name].snapshot(self.models[name], self._policies[name][0]),
            "models": [{"name": each, "profile": profile} for each, (_, profile) in self._policies.items()],
            "requests_at": {"scheme": scheme, "port": self.listener.port},
        }

    def story(self, request_id: str, name: str) -> dict[str, Any] | None:
        """Return a request's story: of this model where it had one of that id, else of whichever had."""
        for model in sorted(self.boards, key=lambda each: each != name):
            story = self.boards[model].story(request_id)
            if story is not None:
                return {**story, "model": model}
        return None

    async def _close_doors(self) -> None:
        """Let what is under way end within the grace, then cut what is left."""
        grace_s = self.config.server.shutdown_grace_s
        picker = [] if self.picker is None else [self.picker.port.stop(grace_s)]
        await asyncio.gather(self.listener.close(grace_s), *picker)

    def _carriers(self, doorkeeper: Doorkeeper) -> list[Carriers]:
        """Return who has the connections where that is not this process."""
        if self.config.server.processes == 1:
            return []
        server_context(self.config.server)  # which each of them will make, and may be wrong
        return [Carriers(self.config, self.models, self.places, self.tally, doorkeeper)]

    def _bypass(self, served: ServedModel) -> Bypass | None:
        """Return what a model's streams go past Python by, where this process has them and it is wanted and can be."""
        server = self.config.server
        if server.processes > 1 or not server.compiled_relay:
            return None
        return bypass_on(asyncio.get_running_loop(), served.decider.saw_many)

    async def _open(self, front: Front[Exchange] | Carriers) -> Listener | Carriers:
        """Listen for requests, here or in carriers."""
        if isinstance(front, Carriers):
            await front.start()
            return front
        server = self.config.server
        limits = Limits(max_header_bytes=server.max_header_bytes, max_body_bytes=server.max_body_bytes)
        census = RowOfTally(self.tally, 0, server.max_connections)
        context = server_context(server)
        return await _listen(front.handle, server.host, server.port, "port", limits, context, census)

    def _served(self, model: ModelConfig, listener: Watches) -> ServedModel:
        server, health = self.config.server, self.config.health
        fleet, spec = live_fleet(model, self.config.tiers_s, server.max_concurrent_requests)
        self._policies[model.name] = (spec.name, model.profile_name)
        configured = {endpoint.url for model in self.written.models for endpoint in model.endpoints}
        instances = [
            Instance(
                index=i,
                name=endpoint.title,
                url=endpoint.url,
                origin=self.origins.open(endpoint.url),
                api_key=engine_key(endpoint.api_key_env),
                role=endpoint.role,
                labels=endpoint.labels,
                source=CONFIGURED if endpoint.url in configured else LISTED,
            )
            for i, endpoint in enumerate(model.endpoints)
        ]
        patience = Patience(
            first_byte_timeout_s=health.first_byte_timeout_s,
            idle_timeout_s=health.idle_timeout_s,
            request_timeout_s=server.request_timeout_s,
            max_retries=server.max_retries,
        )
        served = ServedModel(
            model.name,
            fleet,
            spec.kind.code,
            instances,
            Answers(),
            listener,
            patience=patience,
            tells_slos=model.dynamic_chunking,
            slack=Slack(model.start_slack_s, learns=model.slack_ms == LEARN),
            gather_s=GATHER_S if server.processes == 1 else FAR_GATHER_S,
        )
        served.estimates = estimates(model.tokenizer)
        return served

    def _watch_boards(self) -> None:
        """Let the boards take note of how things stand, from now on."""
        self._board_timer = asyncio.get_running_loop().call_later(WATCH_PERIOD_S, self._watch_boards)
        for name, board in self.boards.items():
            board.tick(self.models[name])
        self.metrics.tick()

    def _watches_of(self, model: ModelConfig) -> Lookouts:
        """Return who looks at a model's engines: whether they are well, and what they say of themselves."""
        served, names = self.models[model.name], ServedNames(model.name)
        answers = None if model.name == ANY_MODEL else names.compare
        health = served.health = Health(served.instances, served.close_instance, self.config.health, answers)
        told = served.reconciliation = Reconciliation(served, takes_capacity=model.kv_capacity_tokens is None)
        gone = partial(health.failed, at_once=True)
        engines = EngineWatch(told.read, gone, self.config.telemetry.engine_interval_s)
        return Lookouts(health, engines, names)


async def _listen(
    handler: Handler,
    host: str,
    port: int,
    key: str,
    limits: Limits,
    ssl: SSLContext | None = None,
    census: Census | None = None,
) -> Listener:
    try:
        return await listen(handler, host, port, limits=limits, ssl=ssl, census=census)
    except OSError as error:
        raise ConfigError(
            f"server.{key}: can't listen on {host}:{port}, {error.strerror or error}; choose another one"
        ) from error
