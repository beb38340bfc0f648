"""What a request wishes: its SLO and who it is, from headers and body, in every spelling that the field uses.

    meaning        canonical header               then            then                 then
    TTFT, ms       x-llm-d-slo-ttft-ms            x-slo-ttft-ms   body slo.ttft_ms     body nvext.router.ttft_target
    TPOT, ms       x-llm-d-slo-tpot-ms            x-slo-tpot-ms   body slo.tpot_ms     body nvext.router.itl_target
    class          x-llm-d-inference-objective    x-gateway-…     body slo.class

The first that is given counts. The others must be well-formed all the same: whoever writes an SLO wrong is told so,
with a 400, and not served with a default. JSON's null means not given, and so does `default` in a header of a time:
inference-perf 0.7 sends it for requests of a replayed trace that have no SLO. What is granted is decided in `grants`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from polyslo.errors import nearest
from polyslo.gateway.config.slo import MAX_TPOT_MS, MAX_TTFT_MS
from polyslo.gateway.requests.headers import Headers, read_once
from polyslo.gateway.requests.openai_errors import BadRequest

TTFT_HEADERS = (b"x-llm-d-slo-ttft-ms", b"x-slo-ttft-ms")
TPOT_HEADERS = (b"x-llm-d-slo-tpot-ms", b"x-slo-tpot-ms")
CLASS_HEADERS = (b"x-llm-d-inference-objective", b"x-gateway-inference-objective")
TENANT_HEADERS = (b"x-llm-d-inference-fairness-id",)
SESSION_HEADERS = (b"x-session-id", b"x-dynamo-session-id", b"x-session-token")
REQUEST_ID_HEADERS = (b"x-request-id", b"x-correlation-id")
EXPLAIN_HEADER = b"x-polyslo-explain"
SLO_HEADERS = frozenset((*TTFT_HEADERS, *TPOT_HEADERS, *CLASS_HEADERS, EXPLAIN_HEADER))  # ours: not for engines
_ALL_HEADERS = SLO_HEADERS | {*TENANT_HEADERS, *SESSION_HEADERS, *REQUEST_ID_HEADERS}
OWN_FIELDS = ("slo", "nvext")
_SLO_KEYS = ("ttft_ms", "tpot_ms", "class")
_NUMBER = re.compile(r"\d{1,12}(\.\d{0,20})?([eE][+-]?\d{1,3})?")  # as any float is written
_NOT_GIVEN = "default"
_SWITCH = {"1": True, "true": True, "0": False, "false": False}
MAX_NAME_CHARS = 256


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for; None where it does not say. `*_source` is the header or field that said it."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    class_name: str | None = None
    ttft_source: str | None = None
    tpot_source: str | None = None
    class_source: str | None = None
    tenant: str | None = None
    session: str | None = None
    request_id: str | None = None
    wants_receipt: bool = False


NOTHING = Wish()
Said = tuple[str, Any]  # (header or field, what it holds)


def read_wish(headers: Headers, body: Mapping[str, Any]) -> Wish:
    """Return what a request wishes. Raises `BadRequest` naming the header or field that is malformed."""
    given = read_once(headers, _ALL_HEADERS)
    slo = _object(body, "slo", "")
    router = _object(_object(body, "nvext", ""), "router", "nvext.")
    if not given and not slo and not router:
        return NOTHING
    for key in slo:
        if key not in _SLO_KEYS:
            raise BadRequest(f"slo: unknown key {key!r}{nearest(key, _SLO_KEYS)}", param=f"slo.{key}"[:MAX_NAME_CHARS])
    ttft_ms, ttft_source = _first_ms(given, TTFT_HEADERS, slo.get("ttft_ms"), router, "ttft_target")
    tpot_ms, tpot_source = _first_ms(given, TPOT_HEADERS, slo.get("tpot_ms"), router, "itl_target")
    class_name, class_source = _first_name(given, CLASS_HEADERS, ("slo.class", slo.get("class")))
    return Wish(
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        class_name=class_name,
        ttft_source=ttft_source,
        tpot_source=tpot_source,
        class_source=class_source,
        tenant=_first_name(given, TENANT_HEADERS)[0],
        session=_first_name(given, SESSION_HEADERS)[0],
        request_id=_first_name(given, REQUEST_ID_HEADERS)[0],
        wants_receipt=_is_on(given),
    )


def echoed(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the request id to send back with an answer to a request that was never read; none that can't be."""
    for wanted in REQUEST_ID_HEADERS:
        given = {value.strip() for name, value in headers if name == wanted}
        if len(given) == 1:
            (value,) = given
            text = value.decode("latin-1")
            return [(REQUEST_ID_HEADERS[0], value)] if text.isprintable() and 0 < len(text) <= MAX_NAME_CHARS else []
    return []


def strip_own_fields(body: dict[str, Any]) -> bool:
    """Remove polyslo's own fields from a body; tell whether there were any, else the original bytes may be sent on."""
    present = [name for name in OWN_FIELDS if name in body]
    for name in present:
        del body[name]
    return bool(present)


def _object(body: Mapping[str, Any], key: str, within: str) -> Mapping[str, Any]:
    """Return an object of a body, empty where it is not given."""
    value = body.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(
            f"{within}{key}: must be an object, got {shown(value)}; correct it or leave it out", param=within + key
        )
    return value


def _first_ms(
    given: Mapping[bytes, str], headers: tuple[bytes, ...], own: Any, router: Mapping[str, Any], target: str
) -> tuple[float | None, str | None]:
    """Return the first time that is given, in milliseconds, and who gave it; check all of them."""
    is_ttft = headers is TTFT_HEADERS
    high_ms = MAX_TTFT_MS if is_ttft else MAX_TPOT_MS
    named = [name for name in headers if given.get(name, _NOT_GIVEN) != _NOT_GIVEN]
    found = [(name.decode(), _header_ms(given[name], name.decode(), high_ms)) for name in named]
    fields = (("slo.ttft_ms" if is_ttft else "slo.tpot_ms", own), (f"nvext.router.{target}", router.get(target)))
    found += [(field, _field_ms(value, field, high_ms)) for field, value in fields if value is not None]
    return (found[0][1], found[0][0]) if found else (None, None)


def _header_ms(text: str, name: str, high_ms: float) -> float:
    """Read plain decimals only: Python's own float() takes underscores, other scripts' digits, nan and inf."""
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if 0 < value <= high_ms else _reject_ms(f"header {name}", name, high_ms, repr(text[:80]))


def _field_ms(value: Any, field: str, high_ms: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value <= high_ms else _reject_ms(field, field, high_ms, shown(value))


def _reject_ms(what: str, param: str, high_ms: float, got: str) -> NoReturn:
    raise BadRequest(
        f"{what}: must be a number of milliseconds above 0 and at most {high_ms:.0f}, got {got}; send for example 50",
        param=param,
        code="invalid_slo",
    )


def _first_name(given: Mapping[bytes, str], headers: tuple[bytes, ...], *others: Said) -> tuple[str | None, str | None]:
    """Return the first name that is given and who gave it; check all of them."""
    said: list[Said] = [(name.decode(), given[name]) for name in headers if name in given]
    said += [(field, value) for field, value in others if value is not None]
    for source, value in said:
        if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= MAX_NAME_CHARS:
            raise BadRequest(
                f"{source}: must be a text of 1 to {MAX_NAME_CHARS} printable characters, got {shown(value)}; "
                "correct it or leave it out",
                param=source,
            )
    return (said[0][1], said[0][0]) if said else (None, None)


def _is_on(given: Mapping[bytes, str]) -> bool:
    text = given.get(EXPLAIN_HEADER, "0").lower()
    if text not in _SWITCH:
        raise BadRequest(
            f"header {EXPLAIN_HEADER.decode()}: must be 1 or 0, got {text[:80]!r}; correct it or leave it out",
            param=EXPLAIN_HEADER.decode(),
        )
    return _SWITCH[text]


def shown(value: Any) -> str:
    """Return a value for a message, short: it came from outside and may be anything."""
    text = repr(value[:80] if isinstance(value, str) else value) if not isinstance(value, dict | list) else ""
    return text[:90] or ("an object" if isinstance(value, dict) else f"a list of {len(value)}")
