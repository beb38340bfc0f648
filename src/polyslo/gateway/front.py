"""The gateway's front door: which route a request takes, and what is known of it when it is decided about.

Generations are admitted (`ServedModel`); every other OpenAI route is passed on to an instance of its model as it is.
Errors that no engine gives have the OpenAI API's shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from uuid import uuid4

import orjson

from polyslo.core.state import FITS
from polyslo.gateway.body import CHAT, COMPLETIONS, Ask, encode_body, read_body
from polyslo.gateway.config import GatewayConfig
from polyslo.gateway.config_models import ANY_MODEL
from polyslo.gateway.config_slo import KeyConfig
from polyslo.gateway.grants import Slo, grant
from polyslo.gateway.keys import KeyRing
from polyslo.gateway.openai_errors import JSON_HEADERS, BadRequest, Refusal
from polyslo.gateway.pass_on import PassOn
from polyslo.gateway.relay import Passage
from polyslo.gateway.request import Request
from polyslo.gateway.served_model import ServedModel
from polyslo.gateway.wishes import SLO_HEADERS, Wish, read_wish, strip_own_fields
from polyslo.wire.fields import Headers
from polyslo.wire.server import Exchange, end_to_end

DEFAULT_MAX_TOKENS = 4096  # of a request that states no bound, for the belief alone
HIDDEN_HEADERS = frozenset({b"authorization", b"host", b"content-length", *SLO_HEADERS})
REQUEST_ID = b"x-request-id"


class Front:
    """Handles exchanges: the handler of the gateway's main port."""

    def __init__(self, config: GatewayConfig, models: Mapping[str, ServedModel]) -> None:
        self._config = config
        self._models = models
        self._keys = KeyRing(config.keys)
        self.is_draining = False

    def handle(self, exchange: Exchange) -> None:
        """Answer or admit one request."""
        try:
            refusal = self._route(exchange)
        except BadRequest as bad:
            answer = bad.answer()
        else:
            if refusal is None:
                return
            answer = refusal.answer()
        exchange.respond(answer.status, answer.headers, answer.body)

    def _route(self, exchange: Exchange) -> Refusal | None:
        if not exchange.path.startswith(b"/v1/"):
            return self._health(exchange)
        key = self._keys.admit(exchange.headers)
        if isinstance(key, Refusal):
            return key
        if exchange.path in (CHAT, COMPLETIONS):
            if exchange.method != b"POST":
                return Refusal("wrong_method", f"{exchange.path.decode()} takes POST, got {exchange.method.decode()}")
            return self._generate(exchange, key)
        return self._pass_on(exchange)

    def _health(self, exchange: Exchange) -> Refusal | None:
        if exchange.path in (b"/health", b"/readiness", b"/liveness"):
            is_ready = any(instance.closed == FITS for model in self._models.values() for instance in model.instances)
            if self.is_draining or (exchange.path != b"/liveness" and not is_ready):
                return Refusal("no_instance", "no instance is healthy")
            exchange.respond(200, JSON_HEADERS, b'{"status":"ok"}')
            return None
        return Refusal("unknown_path", f"no such path: {exchange.path.decode('latin-1')[:200]}")

    def _generate(self, exchange: Exchange, key: KeyConfig | None) -> Refusal | None:
        if self.is_draining:
            return Refusal("shutting_down", "the gateway is shutting down; ask another one")
        arrival_s = monotonic()
        ask = read_body(exchange.path, exchange.body)
        model = self._find(ask.model)
        if isinstance(model, Refusal):
            return model
        wish = read_wish(exchange.headers, ask.body)
        slo = grant(wish, key, self._config, tuple(model.fleet.tpots_s.tolist()))
        if isinstance(slo, Refusal):
            return slo
        tokens = model.estimates[ask.is_chat].tokens(ask)
        if tokens >= model.kv_capacity_tokens:
            raise BadRequest(
                f"prompt: about {tokens} tokens, an instance holds {model.kv_capacity_tokens}; shorten it",
                param="messages" if ask.is_chat else "prompt",
                code="context_length_exceeded",
            )
        return self._admit(exchange, model, ask, wish, slo, tokens, arrival_s)

    def _admit(
        self, exchange: Exchange, model: ServedModel, ask: Ask, wish: Wish, slo: Slo, tokens: int, arrival_s: float
    ) -> Refusal | None:
        if model.num_in_flight >= self._config.server.max_concurrent_requests:
            return Refusal("saturated", "as many requests as may be are under way; ask again later")
        body = encode_body(ask.body) if strip_own_fields(ask.body) else exchange.body
        request_id = wish.request_id or f"req-{uuid4().hex}"
        request = Request(
            arrival_s=arrival_s,
            ttft_s=slo.ttft_s,
            tpot_s=slo.tpot_s,
            tier=slo.tier,
            input_tokens=tokens,
            max_tokens=ask.max_tokens or min(DEFAULT_MAX_TOKENS, model.kv_capacity_tokens - tokens),
            is_streamed=ask.is_stream,
        )
        headers = _forwarded(exchange.headers, request_id)
        told = [*slo.headers(), (REQUEST_ID, request_id.encode())]
        passage = Passage(request_id, ask, model.tier_labels[slo.tier], tuple(told), wish.wants_receipt)
        relay = model.admit(exchange, body, request, headers, passage)
        return None if relay is not None else Refusal("saturated", "every place is taken; ask again later")

    def _find(self, name: str) -> ServedModel | Refusal:
        model = self._models.get(name) or self._models.get(ANY_MODEL)
        if model is None:
            known = ", ".join(sorted(self._models))
            return Refusal("unknown_model", f"model: no model {name[:200]!r}; there are {known}", "model")
        return model

    def _pass_on(self, exchange: Exchange) -> Refusal | None:
        """Send any other request to an instance of its model, which a JSON body may name; the least loaded one."""
        model = self._find(_model_named(exchange.body) or next(iter(self._models)))
        if isinstance(model, Refusal):
            return model
        open_ones = [instance for instance in model.instances if instance.closed == FITS]
        if not open_ones:
            return Refusal("no_instance", "no instance is healthy")
        loads = model.fleet.instances["committed_tokens"]
        instance = min(open_ones, key=lambda instance: int(loads[instance.index]))
        PassOn(exchange, instance.origin, _forwarded(exchange.headers, None))
        return None


def _forwarded(headers: Headers, request_id: str | None) -> list[tuple[bytes, bytes]]:
    """Return the headers that an engine sees: the client's, without what was meant for the gateway."""
    kept = [header for header in end_to_end(headers) if header[0] not in HIDDEN_HEADERS]
    if request_id is not None and all(name != REQUEST_ID for name, _ in kept):
        kept.append((REQUEST_ID, request_id.encode()))
    return kept


def _model_named(body: bytes) -> str | None:
    if not body:
        return None
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    name = decoded.get("model") if isinstance(decoded, dict) else None
    return name if isinstance(name, str) else None
