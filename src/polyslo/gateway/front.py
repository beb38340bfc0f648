"""The gateway's front door: which route a request takes, and what is known of it when it is decided about.

Generations are admitted (`ServedModel`); every other OpenAI route is passed on to an instance of its model as it is,
in a place of the same bounds (`Places`). Lists of models take none: who looks in is told also while it is full. Outside
`/v1/` engines have routes that are not for everybody (faults, weights, sleep), so only those named here are passed on.
Errors that no engine gives have the OpenAI API's shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from time import monotonic
from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes
from uuid import uuid4

import orjson

from polyslo.gateway.config.gateway import GatewayConfig
from polyslo.gateway.config.models import ANY_MODEL
from polyslo.gateway.config.slo import KeyConfig
from polyslo.gateway.front_model import Admission, Caller, Carriage, Destination, FrontModel, Leave
from polyslo.gateway.model_list import ModelList
from polyslo.gateway.relays.listeners import NOBODY_AT_THE_DOOR, Doorkeeper
from polyslo.gateway.relays.passage import BEST_EFFORT, Passage
from polyslo.gateway.requests.body import GENERATIONS, Ask, encode_body, read_body
from polyslo.gateway.requests.grants import Slo, grant, tenant_of
from polyslo.gateway.requests.keys import KeyRing
from polyslo.gateway.requests.openai_errors import JSON_HEADERS, NO_INSTANCE, BadRequest, Refusal
from polyslo.gateway.requests.request import Request
from polyslo.gateway.requests.resumable import is_resumable
from polyslo.gateway.requests.trace_context import trace_context
from polyslo.gateway.requests.wishes import SLO_HEADERS, Wish, echoed, read_wish, strip_own_fields
from polyslo.wire.fields import Headers
from polyslo.wire.listing import MODELS
from polyslo.wire.server import end_to_end

DEFAULT_MAX_TOKENS = 4096  # of a request that states no bound, for the belief alone
SURE_RATIO = 0.75  # of the tokens that a prompt is estimated at: surely it has so many
HIDDEN_HEADERS = frozenset({b"authorization", b"host", b"content-length", *SLO_HEADERS})
REQUEST_ID, SESSION = b"x-request-id", b"x-session-id"
PASSED_ON = frozenset({b"/tokenize", b"/detokenize"})  # besides everything below /v1/
BAD_REQUEST = "bad_request"  # why requests that can't be understood were turned away
ASKED = "asked"  # `telemetry.receipts`
_FORM_FIELD = re.compile(rb'name="?model"?[ \t]*[;\r]')
# The rest of the field's headers, and its value on a line of its own.
_FORM_VALUE = re.compile(rb"[^\r\n]{0,256}\r\n(?:[^\r\n]{1,256}\r\n){0,8}\r\n([^\r\n]{1,256})\r\n--")
_MOST_FIELDS = 32  # that are looked at: a body may be made of what looks like them


E = TypeVar("E", bound=Caller)


class Front(Generic[E]):
    """Handles exchanges; `carriage` gets to instances what they ask for."""

    def __init__(
        self,
        config: GatewayConfig,
        models: Mapping[str, FrontModel],
        places: Admission,
        carriage: Carriage[E],
        clock: Callable[[], float] = monotonic,
        doorkeeper: Doorkeeper = NOBODY_AT_THE_DOOR,
    ) -> None:
        self._models = models
        self._places = places
        self._carriage = carriage
        self._clock = clock
        self._doorkeeper = doorkeeper
        self.reconfigure(config)
        self._model_list = ModelList(models)
        self.is_draining = False

    def handle(self, exchange: E) -> None:
        """Answer or admit one request."""
        try:
            refusal = self._route(exchange)
        except BadRequest as bad:
            answer, reason = bad.answer(), BAD_REQUEST
        else:
            if refusal is None:
                return
            answer, reason = refusal.answer(), refusal.kind
        exchange.respond(answer.status, [*answer.headers, *echoed(exchange.headers)], answer.body)
        if exchange.path in GENERATIONS:
            self._doorkeeper.turned_away(exchange, reason)

    def reconfigure(self, config: GatewayConfig) -> None:
        """Let requests in, and grant SLOs, by this configuration from the next request on."""
        self._config = config
        self._keys = KeyRing(config.keys)

    def drain(self) -> None:
        """Take nothing new from now on."""
        self.is_draining = True
        self._places.turn_away(SHUTTING_DOWN)

    def _route(self, exchange: E) -> Refusal | None:
        path = exchange.path
        if not path.startswith(b"/v1/") and path not in PASSED_ON:
            return self._health(exchange)
        key = self._keys.admit(exchange.headers)
        if isinstance(key, Refusal):
            return key
        if self.is_draining:
            return SHUTTING_DOWN
        if path in GENERATIONS:
            if exchange.method != b"POST":
                return Refusal("wrong_method", f"{path.decode()} takes POST, got {exchange.method.decode()}")
            return self._generate(exchange, key)
        if b"%" in path and unquote_to_bytes(path) in GENERATIONS:  # which engines would read as that
            return _unknown_path(path)
        if path == MODELS and exchange.method == b"GET":
            return self._list_models(exchange)
        if path.startswith(MODELS + b"/") and exchange.method == b"GET":
            return self._show_model(exchange)
        return self._pass_on(exchange, key)

    def _health(self, exchange: E) -> Refusal | None:
        if exchange.path in (b"/health", b"/readiness", b"/liveness"):
            is_ready = any(model.has_open_instance for model in self._models.values())
            if self.is_draining or (exchange.path != b"/liveness" and not is_ready):
                return Refusal("no_instance", "no instance is healthy")
            exchange.respond(200, JSON_HEADERS, b'{"status":"ok"}')
            return None
        return _unknown_path(exchange.path)

    def _generate(self, exchange: E, key: KeyConfig | None) -> Refusal | None:
        arrival_s = self._clock()
        ask = read_body(exchange.path, exchange.body)
        model = self._find(ask.model)
        if isinstance(model, Refusal):
            return model
        wish = read_wish(exchange.headers, ask.body)
        tokens = model.estimates[ask.is_chat].tokens(ask)
        slo = grant(wish, key, self._config, model.tpots_s, model.least_ttft.seconds(int(SURE_RATIO * tokens)))
        if isinstance(slo, Refusal):
            return slo
        if not model.has_open_instance:
            return NO_INSTANCE
        if tokens >= model.kv_capacity_tokens:
            raise BadRequest(
                f"prompt: about {tokens} tokens, an instance holds {model.kv_capacity_tokens}; shorten it",
                param="messages" if ask.is_chat else "prompt",
                code="context_length_exceeded",
            )
        if model.is_disaggregated:
            _check_apart(ask)
        request = Request(
            arrival_s=arrival_s,
            ttft_s=slo.ttft_s,
            tpot_s=slo.tpot_s,
            tier=slo.tier,
            input_tokens=tokens,
            max_tokens=ask.max_tokens or min(DEFAULT_MAX_TOKENS, model.kv_capacity_tokens - tokens),
            is_streamed=ask.is_stream,
            num_sequences=ask.num_sequences,
            expected_tokens=ask.expected_tokens or 0,
            is_best_effort=slo.is_best_effort,
        )
        return self._admit(exchange, key, model, request, ask, wish, slo)

    def _admit(
        self,
        exchange: E,
        key: KeyConfig | None,
        model: FrontModel,
        request: Request,
        ask: Ask,
        wish: Wish,
        slo: Slo,
    ) -> Refusal | None:
        body = encode_body(ask.body) if strip_own_fields(ask.body) else exchange.body
        request_id = wish.request_id or f"req-{uuid4().hex}"
        headers = _forwarded(exchange.headers, request_id)
        passage = Passage(
            request_id,
            ask,
            BEST_EFFORT if slo.is_best_effort else model.tier_labels[slo.tier],
            told=(*slo.headers(), *_told(request_id, wish.session)),
            wants_receipt=wish.wants_receipt and self._config.telemetry.receipts == ASKED,
            key_name=None if key is None else key.name,
            tenant=tenant_of(wish, key),
            session=wish.session,
            is_resumable=is_resumable(ask),
            trace_context=trace_context(exchange.headers),
        )

        def enter() -> Refusal | None:
            relay = self._carriage.take_in(model, exchange, body, request, headers, passage)
            return None if relay is not None else Refusal("saturated", "every place is taken; ask again later")

        return self._places.take(exchange, key, enter)

    def _find(self, name: str) -> FrontModel | Refusal:
        model = self._models.get(name) or self._models.get(ANY_MODEL)
        if model is None:
            known = ", ".join(sorted(self._models))
            return Refusal("unknown_model", f"model: no model {name[:200]!r}; there are {known}", "model")
        return model

    def _list_models(self, exchange: E) -> Refusal | None:
        """Answer with all models; where there is one, as an instance of it does."""
        if len(self._models) > 1:
            self._model_list.answer(exchange)
            return None
        (model,) = self._models.values()
        instance = next((instance for instance in model.destinations if instance.is_open), None)
        if instance is None:
            return NO_INSTANCE
        self._send_on(exchange, self._clock(), instance, lambda: None)
        return None

    def _show_model(self, exchange: E) -> Refusal | None:
        name = unquote_to_bytes(exchange.path[len(MODELS) + 1 :]).decode("utf-8", "replace")
        model = self._find(name)
        if isinstance(model, Refusal):
            return model
        self._model_list.answer_one(exchange, model, name)
        return None

    def _pass_on(self, exchange: E, key: KeyConfig | None) -> Refusal | None:
        """Send any other request to an instance of its model, which its body may name; the least loaded one."""
        arrival_s = self._clock()
        model = self._find(_model_named(exchange) or next(iter(self._models)))
        if isinstance(model, Refusal):
            return model
        if not model.has_open_instance:
            return NO_INSTANCE
        return model.pass_on(exchange, key, self._places, partial(self._send_on, exchange, arrival_s))

    def _send_on(self, exchange: E, arrival_s: float, instance: Destination, leave: Leave) -> None:
        left_s = arrival_s + self._config.server.request_timeout_s - self._clock()
        headers = [*_forwarded(exchange.headers, None), *instance.credentials]
        self._carriage.pass_on(exchange, instance.origin, headers, left_s, leave)


def _forwarded(headers: Headers, request_id: str | None) -> list[tuple[bytes, bytes]]:
    """Return the headers that an engine sees: the client's, without what was meant for the gateway."""
    kept = [header for header in end_to_end(headers) if header[0] not in HIDDEN_HEADERS]
    if request_id is not None and all(name != REQUEST_ID for name, _ in kept):
        kept.append((REQUEST_ID, request_id.encode("latin-1")))
    return kept


def _told(request_id: str, session: str | None) -> list[tuple[bytes, bytes]]:
    """Return the headers by which a client knows its request again, encoded as they were decoded."""
    told = [(REQUEST_ID, request_id.encode("latin-1"))]
    return told if session is None else [*told, (SESSION, session.encode("latin-1"))]


def _check_apart(ask: Ask) -> None:
    """Refuse what can't be prefilled by one engine and decoded by another: KV is fetched once. Raises `BadRequest`."""
    if ask.num_sequences > 1:
        raise BadRequest(
            f"n: this model prefills and decodes apart, so a request has one answer, got {ask.num_sequences}; "
            "send several requests",
            param="n" if ask.num_prompts == 1 else "prompt",
        )
    encode_body(ask.body)  # the prefill's body is written anew: one nested too deep is refused now


def _model_named(exchange: Caller) -> str | None:
    """Return the model that a body names: JSON, or a form, as audio comes in."""
    if not exchange.body:
        return None
    if (exchange.header(b"content-type") or b"").lower().startswith(b"multipart/form-data"):
        return _model_of_form(exchange.body)
    try:
        decoded = orjson.loads(exchange.body)
    except orjson.JSONDecodeError:
        return None
    name = decoded.get("model") if isinstance(decoded, dict) else None
    return name if isinstance(name, str) else None


def _model_of_form(body: bytes) -> str | None:
    for field in islice(_FORM_FIELD.finditer(body), _MOST_FIELDS):
        start = body.rfind(b"\r\n", max(0, field.start() - 256), field.start()) + 2
        value = _FORM_VALUE.match(body, field.end() - 1)
        if value and body[start : field.start()].lower().startswith(b"content-disposition:"):
            return value[1].decode("utf-8", "replace")
    return None


def _unknown_path(path: bytes) -> Refusal:
    return Refusal("unknown_path", f"no such path: {path.decode('latin-1')[:200]}")


SHUTTING_DOWN = Refusal("shutting_down", "the gateway is shutting down; ask another one")
