"""What a carrier and the decider's process tell each other, and how it is written.

A carrier holds a request's bytes, its client and the engine's answer; the decider's process decides. A request's
number is its carrier's, and never used twice. Each side goes by what it has heard: messages cross, so a number that
is over is nobody's mistake, and each side has an order in which it tells:

    carrier: ARRIVAL, then NEWS, PREFILLED, FAILED, TAKEN, STAYS as they happen, last one of ENDED, BROKEN, REJECTED,
             LEFT
    decider: SEND, PREFILL, TAKE_BACK any number of times, last one of ANSWER, LET_THROUGH, BREAK_OFF, unless the
             carrier was

What nobody decides about asks for a PLACE and is PLACED or has its ANSWER; unless it was answered, it ends with PASSED.
A carrier answers TAKE_BACK with TAKEN or, once, with STAYS: where its client would notice. From then on it ignores
TAKE_BACK, SEND and PREFILL. After FAILED it waits. What is told once a request is JSON, which carries whatever a
dataclass gains; tokens, told a thousand times a request, are pairs of integers.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from enum import IntEnum
from typing import Any

import orjson

from polyslo.gateway.processes.carried_instance import CarriedInstance
from polyslo.gateway.relays.errand import Errand
from polyslo.gateway.relays.passage import Header, Passage
from polyslo.gateway.requests.body import Ask
from polyslo.gateway.requests.request import Request
from polyslo.gateway.requests.trace_context import context_headers, trace_context
from polyslo.wire.client import Failure
from polyslo.wire.fields import Headers


class Said(IntEnum):
    """What a carrier tells."""

    READY = 1  # it listens
    ARRIVAL = 2  # a request came: model, request, passage, ask
    NEWS = 3  # tokens came; 0 tokens: a response has begun
    ENDED = 4  # well: what was lived, output tokens
    FAILED = 5  # an instance failed it: what was lived, the failure
    REJECTED = 6  # an instance found it wrong: what was lived, the status
    LEFT = 7  # its client has gone: what was lived
    TAKEN = 8  # it was taken back, as asked
    PLACE = 9  # where shall something go that nobody decides about: a model, a key's name, a path
    PREFILLED = 10  # its prefill has ended, its KV waits
    TURNED_AWAY = 11  # a generation was answered at the door: its path and trace, the reason
    STAYS = 12  # it was to be taken back, and can't be any more
    BROKEN = 13  # its response has ended with its instance's failure: what was lived
    PASSED = 14  # what asked for a PLACE is over, whether or not it has got one


class Told(IntEnum):
    """What the decider's process tells."""

    SETTINGS = 32  # the whole configuration, pickled; first of all, and again when it has changed
    MODELS = 33  # all models and their instances as they are now
    SEND = 34  # to an instance: see `errand`
    TAKE_BACK = 35
    ANSWER = 36  # status, headers, whether ours are added; body
    LET_THROUGH = 37  # what the instance answered
    BREAK_OFF = 38
    PLACED = 39  # the instance that was asked for; ANSWER, where there is none or no place
    PREFILL = 41  # at an instance, to be sent to another one then: see `errand`
    DRAIN = 40  # take nothing new, let what is under way end within so many seconds, then end


# What a carrier learns of a request on the way, besides what was known at its arrival.
LIVED = ("first_token_s", "last_token_s", "tokens", "prompt_tokens", "is_late")
_KEPT = ("ask", "told", "placement")  # of a passage, by the carrier or the decider's process
_PASSAGE = tuple(field.name for field in fields(Passage) if field.name not in _KEPT)
_REQUEST = tuple(field.name for field in fields(Request))
_ASK = tuple(field.name for field in fields(Ask) if field.name != "body")
_SEEN = struct.Struct("<d")

News = Sequence[tuple[int, int]]


def arrival(model: str, request: Request, passage: Passage) -> bytes:
    """Write ARRIVAL."""
    parts = (
        model,
        {name: getattr(request, name) for name in _REQUEST},
        {name: getattr(passage, name) for name in _PASSAGE},
        {name: getattr(passage.ask, name) for name in _ASK},
    )
    return orjson.dumps(parts)


def read_arrival(content: bytes) -> tuple[str, Request, Passage]:
    """Read ARRIVAL. The passage's ask has neither body nor text: nothing can be learned from their lengths here."""
    model, request, passage, ask = orjson.loads(content)
    return model, Request(**request), Passage(ask=Ask(**{**ask, "prompt_bytes": 0}, body={}), **passage)


def place(model: str, key_name: str | None, path: bytes) -> bytes:
    """Write PLACE."""
    return orjson.dumps((model, key_name, path.decode("latin-1")))


def read_place(content: bytes) -> tuple[str, str | None, bytes]:
    """Read PLACE: the model, the name of the key that it came with, and what is asked for."""
    model, key_name, path = orjson.loads(content)
    return model, key_name, path.encode("latin-1")


def news(seen_s: float, tokens: Mapping[int, int]) -> bytes:
    """Write NEWS: the first of it was seen at `seen_s`; tokens by request."""
    pairs = array("q", [number for pair in tokens.items() for number in pair])
    return _SEEN.pack(seen_s) + pairs.tobytes()


def read_news(content: bytes) -> tuple[float, Iterable[tuple[int, int]]]:
    """Read NEWS: when, and (request, tokens) pairs."""
    pairs = array("q")
    pairs.frombytes(content[_SEEN.size :])
    (seen_s,) = _SEEN.unpack_from(content)
    return seen_s, zip(pairs[::2], pairs[1::2], strict=True)


def lived(passage: Passage, told: Any = None) -> bytes:
    """Write what a request has lived, and what is told with it: ENDED, FAILED, REJECTED, LEFT."""
    return orjson.dumps(([getattr(passage, name) for name in LIVED], told))


def read_lived(content: bytes, passage: Passage) -> Any:
    """Note what a request has lived, and return what was told with it."""
    values, told = orjson.loads(content)
    for name, value in zip(LIVED, values, strict=True):
        setattr(passage, name, value)
    return told


def failure(what: Failure | int) -> list[Any] | int:
    """Return a failure as FAILED tells it."""
    return what if isinstance(what, int) else [what.kind, what.detail, what.started]


def read_failure(told: list[Any] | int) -> Failure | int:
    """Return the failure that FAILED told."""
    return told if isinstance(told, int) else Failure(*told)


def errand(sent: Errand, receipt: Sequence[Header], trace: Sequence[Header]) -> bytes:
    """Write SEND or PREFILL; a carrier has connections and credentials of its own."""
    headers = header_texts(receipt), header_texts(trace)
    timeouts_s = sent.first_byte_timeout_s, sent.idle_timeout_s
    return orjson.dumps((sent.i, sent.told, *timeouts_s, sent.is_best_effort, *headers))


def read_errand(
    content: bytes, instances: Mapping[int, CarriedInstance]
) -> tuple[Errand, tuple[Header, ...], tuple[Header, ...]]:
    """Read SEND or PREFILL: where to, by a carrier's instances, the receipt, and the trace that engines see."""
    i, told, first_byte_timeout_s, idle_timeout_s, is_best_effort, receipt, trace = orjson.loads(content)
    to, timeouts_s = instances[i], (first_byte_timeout_s, idle_timeout_s)
    sent = Errand(i, to.origin, told, to.credentials, *timeouts_s, to.event_tokens, is_best_effort)
    return sent, read_headers(receipt), read_headers(trace)


def turned_away(path: bytes, headers: Headers, reason: str) -> bytes:
    """Write TURNED_AWAY: where it was sent, its trace, why."""
    return orjson.dumps((path.decode("latin-1"), trace_context(headers), reason))


def read_turned_away(content: bytes) -> tuple[bytes, list[Header], str]:
    """Read TURNED_AWAY."""
    path, context, reason = orjson.loads(content)
    return path.encode("latin-1"), context_headers(context), reason


def answer(status: int, headers: Sequence[Header], body: bytes, *, adds_ours: bool) -> bytes:
    """Write ANSWER; `adds_ours`: with the headers that the carrier has for this request."""
    return orjson.dumps((status, header_texts(headers), adds_ours)) + b"\n" + body


def read_answer(content: bytes) -> tuple[int, tuple[Header, ...], bool, bytes]:
    """Read ANSWER."""
    head, _, body = content.partition(b"\n")
    status, headers, adds_ours = orjson.loads(head)
    return status, read_headers(headers), adds_ours, body


def header_texts(headers: Sequence[Header]) -> list[tuple[str, str]]:
    """Return headers as JSON has them."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def read_headers(texts: Sequence[Sequence[str]]) -> tuple[Header, ...]:
    """Return headers that were JSON."""
    return tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in texts)
