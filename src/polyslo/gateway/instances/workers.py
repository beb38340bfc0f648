"""`/workers`: which instances there are, one more, one less; as users of SMG and sglang-router know it.

    GET    /workers             all of them, and how they stand
    GET    /workers/NAME        one
    POST   /workers             {"url", "name", "model", "role", "labels", "api_key"}: 202, it joins when it answers
    DELETE /workers/NAME        202, it leaves when its requests are over; with ?force=1 200, it is gone

NAME is a name or a URL, quoted as in any URL. Changing anything needs the admin key. Source: ours; SMG's other names
of the same fields are taken too: `model_id`, and `worker_type` with `regular` for no role.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import orjson

from polyslo.gateway.config.kinds import FAILED, Choice, Mistakes, Secret, Text, Texts
from polyslo.gateway.config.models import ANY_MODEL, DECODE, PREFILL, EndpointConfig, Url
from polyslo.gateway.config.table import read_table, setting
from polyslo.gateway.instances.instance import POSTED, Instance
from polyslo.gateway.instances.membership import Membership
from polyslo.gateway.requests.keys import is_key, read_bearer
from polyslo.gateway.requests.openai_errors import JSON_HEADERS, BadRequest, Refusal
from polyslo.gateway.served_model import ServedModel
from polyslo.wire.server import Exchange

WORKERS = b"/workers"
REGULAR = "regular"
_ALIASES = {"model_id": "model", "worker_type": "role"}
_NAME = Text("a name of 1 to 128 printable characters", r"[^\s\x00-\x1f\x7f](?:[ -~\u00a0-\uffff]{0,126}[^\s])?")
_HEADER_TEXT = r"[!-~]{1,4096}"


@dataclass(frozen=True, slots=True)
class _Posted:
    """The body of `POST /workers`."""

    url: str = setting(Url(), "")
    name: str | None = setting(_NAME, "", None)
    model: str | None = setting(Text("a model's name"), "", None)
    role: str | None = setting(Choice((PREFILL, DECODE, REGULAR)), "", None)
    labels: tuple[tuple[str, str], ...] = setting(Texts(), "", ())
    api_key: str | None = setting(Secret("the engine's key in printable ASCII", _HEADER_TEXT), "", None)


class Workers:
    """Answers what is asked about instances, and lets them join and leave."""

    def __init__(self, memberships: Mapping[str, Membership], admin_key_hash: Callable[[], str | None]) -> None:
        self._memberships = memberships
        self._admin_key_hash = admin_key_hash

    def answer(self, exchange: Exchange) -> Refusal | None:
        """Answer a request of `/workers`, or say why not. Raises `BadRequest`."""
        name = unquote(exchange.path[len(WORKERS) + 1 :].decode("latin-1"))
        if exchange.method in (b"GET", b"HEAD"):
            return self._tell(exchange, name)
        if exchange.method not in (b"POST", b"DELETE") or (exchange.method == b"POST") == bool(name):
            return Refusal("wrong_method", "GET and POST /workers, GET and DELETE /workers/NAME are what there is")
        return self._stranger(exchange) or (
            self._post(exchange) if exchange.method == b"POST" else self._delete(exchange, name)
        )

    def _tell(self, exchange: Exchange, name: str) -> Refusal | None:
        if name:
            found = self._find(name)
            return found if isinstance(found, Refusal) else _respond(exchange, 200, told(*found))
        models = [membership.model for membership in self._memberships.values()]
        workers = [told(model, instance) for model in models for instance in model.instances]
        return _respond(exchange, 200, {"workers": workers, "total": len(workers)})

    def _stranger(self, exchange: Exchange) -> Refusal | None:
        """Refuse whoever has not the admin key; everybody, where there is none."""
        key_hash = self._admin_key_hash()
        if key_hash is None:
            return Refusal("forbidden", "this gateway has no admin key; set server.admin_key_hash (polyslo key new)")
        token = read_bearer(exchange.headers)
        if token is None:
            return Refusal("unauthorized", 'no admin key: send it as "authorization: Bearer KEY"', "authorization")
        if not is_key(token, key_hash):
            return Refusal("unauthorized", "not the admin key of this gateway", "authorization")
        return None

    def _post(self, exchange: Exchange) -> Refusal | None:
        posted = _read(exchange.body)
        membership = self._of_model(posted.model)
        if isinstance(membership, Refusal):
            return membership
        role = None if posted.role == REGULAR else posted.role
        endpoint = EndpointConfig(posted.url, posted.name, role, posted.labels)
        for wanted in (endpoint.url, endpoint.title):
            taken = self._find(wanted)
            if not isinstance(taken, Refusal) and taken[0] is not membership.model:
                return Refusal("already_there", f"model {taken[0].name!r} has an instance {wanted!r}; use another one")
        joined = membership.join(endpoint, POSTED, posted.api_key)
        if isinstance(joined, Refusal):
            return joined
        location = b"/workers/" + quote(joined.name, safe="").encode()
        return _respond(exchange, 202, told(membership.model, joined), (b"location", location))

    def _delete(self, exchange: Exchange, name: str) -> Refusal | None:
        found = self._find(name)
        if isinstance(found, Refusal):
            return found
        model, instance = found
        at_once = _force(exchange.query)
        self._memberships[model.name].leave(instance, at_once=at_once)
        return _respond(exchange, 200 if at_once else 202, told(model, instance))

    def _of_model(self, name: str | None) -> Membership | Refusal:
        memberships = self._memberships
        if name is None and len(memberships) == 1:
            return next(iter(memberships.values()))
        found = memberships.get(name or "") or memberships.get(ANY_MODEL)
        if found is not None:
            return found
        got = "nothing" if name is None else repr(name[:200])
        return Refusal("unknown_model", f"model: must be one of {', '.join(memberships)}, got {got}", "model")

    def _find(self, name: str) -> tuple[ServedModel, Instance] | Refusal:
        for membership in self._memberships.values():
            instance = membership.model.instances.find(name)
            if instance is not None:
                return membership.model, instance
        return Refusal("unknown_instance", f"no instance {name[:200]!r}; GET /workers lists them")


def told(model: ServedModel, instance: Instance) -> dict[str, Any]:
    """Return what is told of an instance; no keys."""
    return {
        "id": instance.name,
        "url": instance.url,
        "name": instance.name,
        "model_id": model.name,
        "worker_type": instance.role or REGULAR,
        "labels": dict(instance.labels),
        "is_healthy": instance.standing == "ready",
        "status": instance.standing,
        "source": instance.source,
        "load": len(instance.running),
        "engine": _engine(model, instance.index),
    }


def _engine(model: ServedModel, i: int) -> dict[str, Any] | None:
    """Return what an instance's engine says of itself, and what is made of it; None before it has said anything."""
    reading = model.reconciliation.of(i) if model.reconciliation is not None else None
    if reading is None or reading.told is None:
        return None
    told = reading.told
    return {
        "num_running": told.num_running,
        "num_waiting": told.num_waiting,
        "kv_tokens": told.kv_tokens,
        "kv_capacity_tokens": told.kv_capacity_tokens,
        "foreign_requests": reading.foreign_requests,
        "foreign_kv_tokens": reading.foreign_kv_tokens,
    }


def _read(body: bytes) -> _Posted:
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"body: must be JSON, got {error.msg}; send a JSON object", code="invalid_json") from error
    if not isinstance(given, dict):
        raise BadRequest('body: must be a JSON object; send {"url": "http://10.0.0.1:8000"}', code="invalid_json")
    named = {_ALIASES.get(key, key): value for key, value in given.items()}
    mistakes = Mistakes("the body")
    read: Any = read_table(_Posted, named, "", mistakes)
    if read is FAILED:
        raise BadRequest(mistakes.found[0])
    posted: _Posted = read
    return posted


def _force(query: bytes) -> bool:
    given = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("force", ["0"])[-1]
    if given not in ("0", "1", "false", "true"):
        raise BadRequest(f"force: must be 1 or 0, got {given[:80]!r}; correct it or leave it out", param="force")
    return given in ("1", "true")


def _respond(exchange: Exchange, status: int, told: Any, *headers: tuple[bytes, bytes]) -> Refusal | None:
    """Answer; nothing is refused."""
    exchange.respond(status, [*JSON_HEADERS, *headers], orjson.dumps(told))
    return None
