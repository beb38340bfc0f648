"""The management port: the live page and what it reads, Prometheus metrics, instances and their loads.

Apart from the port for requests, so that a firewall can tell them apart. It shows names, times and lengths, never
prompts or keys; looking needs a key where one is set. Changing the instances always does: see `Workers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

import orjson

from polyslo.gateway.instances.workers import WORKERS, Workers
from polyslo.gateway.observability.metrics import CONTENT_TYPE
from polyslo.gateway.observability.scrape import Scrape
from polyslo.gateway.page.assets import load_assets
from polyslo.gateway.requests.keys import is_key, read_bearer, read_password
from polyslo.gateway.requests.openai_errors import JSON_HEADERS, BadRequest, Refusal
from polyslo.gateway.served_model import ServedModel
from polyslo.wire.server import Exchange

EVENT_HEADERS = ((b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache"))
PERIOD_S = 1.0
STATE, EVENTS, STORY = b"/state", b"/events", b"/requests/"  # of one model each: `?model=`, else the first
HEALTH = b"/health"
_STRANGER = Refusal(
    "unauthorized",
    'looking here needs the key of server.view_key_hash: send it as "authorization: Bearer KEY", or as a password',
    "authorization",
    extra=((b"www-authenticate", b'Basic realm="polyslo"'),),
)

Snapshot = Callable[[str], Mapping[str, Any]]
Story = Callable[[str, str], Mapping[str, Any] | None]


@dataclass(slots=True)
class _Watcher:
    """Who has an event stream open: of which model, and whether it lags behind."""

    model: str
    lags: bool = False


class Management:
    """Handles the exchanges of the management port."""

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        snapshot: Snapshot,
        story: Story,
        metrics: Callable[[], Iterator[bytes]],
        workers: Workers,
        view_keys: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        """`snapshot` takes a model's name, `story` a request id and the name of the model to look in first.

        `view_keys` gives the hashes of the keys that may look; none: everybody may.
        """
        self._models = models
        self._snapshot = snapshot
        self._story = story
        self._metrics = metrics
        self._workers = workers
        self._view_keys = view_keys
        self._assets = load_assets()
        self._watchers: dict[Exchange, _Watcher] = {}
        self._timer: asyncio.TimerHandle | None = None

    def handle(self, exchange: Exchange) -> None:
        """Answer one request."""
        is_look = exchange.method in (b"GET", b"HEAD")
        if is_look and exchange.path != HEALTH and not self._may_look(exchange):
            return self._refuse(exchange, _STRANGER)
        if exchange.path == WORKERS or exchange.path.startswith(WORKERS + b"/"):
            return self._manage(exchange)
        if not is_look:
            return self._refuse(
                exchange, Refusal("wrong_method", "this port takes GET, and POST and DELETE at /workers")
            )
        asset = self._assets.get(exchange.path.decode("latin-1"))
        if asset is not None:
            held = asset.is_held_by(exchange.header(b"if-none-match"))
            return exchange.respond(304 if held else 200, asset.headers(), b"" if held else asset.body)
        if exchange.path == b"/metrics":
            Scrape(exchange, [(b"content-type", CONTENT_TYPE)], self._metrics())
            return None
        if exchange.path in (STATE, EVENTS) or exchange.path.startswith(STORY):
            return self._show(exchange)
        return self._tell(exchange, self._look_up(exchange.path))

    def stop(self) -> None:
        """End all event streams."""
        if self._timer is not None:
            self._timer.cancel()
        for exchange in list(self._watchers):
            exchange.end()
        self._watchers.clear()

    def _may_look(self, exchange: Exchange) -> bool:
        """Tell whether who asks has a key that may look; everybody may where there is none."""
        hashes = self._view_keys()
        token = read_bearer(exchange.headers) or read_password(exchange.headers)
        return not hashes or sum(is_key(token, known) for known in hashes) > 0  # all: the time tells nothing

    def _show(self, exchange: Exchange) -> None:
        """Answer with what the page shows of one model."""
        given = parse_qs(exchange.query.decode("latin-1")).get("model")
        model = given[-1] if given else next(iter(self._models))
        if model not in self._models:
            known = ", ".join(self._models)
            problem = f"model: must be one of {known}, got {model[:200]!r}"
            return self._refuse(exchange, Refusal("unknown_model", problem, "model"))
        if exchange.path == EVENTS:
            return self._watch(exchange, model)
        if exchange.path == STATE:
            return self._tell(exchange, self._snapshot(model))
        request_id = unquote(exchange.path[len(STORY) :].decode("latin-1"))
        return self._tell(exchange, self._story(request_id, model))

    def _tell(self, exchange: Exchange, found: Any) -> None:
        if found is None:
            return self._refuse(exchange, Refusal("unknown_path", "no such path here"))
        return exchange.respond(200, JSON_HEADERS, orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY))

    def _look_up(self, path: bytes) -> Any:
        if path == HEALTH:
            return {"status": "ok"}
        if path == b"/get_loads":
            return {"loads": [load for model in self._models.values() for load in _loads(model)]}
        return None

    def _manage(self, exchange: Exchange) -> None:
        try:
            refusal = self._workers.answer(exchange)
        except BadRequest as bad:
            answer = bad.answer()
            return exchange.respond(answer.status, answer.headers, answer.body)
        return None if refusal is None else self._refuse(exchange, refusal)

    def _watch(self, exchange: Exchange, model: str) -> None:
        exchange.start(200, EVENT_HEADERS)
        exchange.write(self._event(model))
        watcher = self._watchers[exchange] = _Watcher(model)
        exchange.on_gone = lambda: self._leave(exchange)
        exchange.on_blocked = lambda is_blocked: setattr(watcher, "lags", is_blocked)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self._tell_watchers)

    def _leave(self, exchange: Exchange) -> None:
        self._watchers.pop(exchange, None)

    def _tell_watchers(self) -> None:
        self._timer = None
        if not self._watchers:
            return
        events: dict[str, bytes] = {}  # by model: one snapshot for all who watch it
        for exchange, watcher in list(self._watchers.items()):
            if watcher.lags:  # it misses a snapshot; the next one has everything
                continue
            if watcher.model not in events:
                events[watcher.model] = self._event(watcher.model)
            exchange.write(events[watcher.model])
        self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self._tell_watchers)

    def _event(self, model: str) -> bytes:
        shown = orjson.dumps(self._snapshot(model), option=orjson.OPT_SERIALIZE_NUMPY)
        return b"event: state\ndata: %b\n\n" % shown

    def _refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        answer = refusal.answer()
        exchange.respond(answer.status, answer.headers, answer.body)


def _loads(model: ServedModel) -> list[dict[str, Any]]:
    records = model.fleet.instances
    return [
        {
            "worker": instance.url,
            "load": len(instance.running),
            "num_decodes": int(records["num_decodes"][instance.index]),
            "num_queued": int(records["num_queued"][instance.index]),
            "kv_tokens": int(records["kv_tokens"][instance.index]),
            "committed_tokens": int(records["committed_tokens"][instance.index]),
        }
        for instance in model.instances
    ]
