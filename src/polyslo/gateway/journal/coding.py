"""How a journal's records become bytes, and bytes records.

    arrival   prefix, request u32, arrival, TTFT, TPOT f64, tier u16, flags u8, input tokens, max tokens i64, actions
    hinted    an arrival; before its actions: expected tokens i64, as its caller says
    digest    prefix, first seen f64, news u32, ended u32, that many pairs (request, tokens) i64, actions
    loss      prefix, request u32, actions
    tick      prefix, actions
    closing   prefix, instance u32, reason u8, actions
    stay      prefix, request u32, instance u32, actions
    resumption prefix, request u32, tokens to prefill i64, actions
    resizing  prefix, instance u32, KV capacity, most residents i64, actions
    entry     kind u8, request u32
    release   kind u8, request u32
    outcome   kind u8, outcome u8, relegated u8, tier u16, request u32, tries u16, prompt tokens, output tokens i64,
              arrival, TTFT as granted, first token, last token f64
    choice    kind u8, request u32, instance i32: a shadow policy's, before the request's arrival
    presence  kind u8, there u8, role u8, time f64, instance u32, length of its name u16, the name in UTF-8

Flags: 1 hidden, 2 best effort.
Prefix: kind u8, number of actions u32, time f64. Action: kind u8, request i32, instance i32. Packed, little-endian.
What is encoded on the gateway's thread is encoded from what is at hand there, without making a record first.
Source: ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct, error

import numpy as np
import numpy.typing as npt

from polyslo.errors import InputError
from polyslo.gateway.journal.records import (
    OUTCOMES,
    Action,
    Arrival,
    Choice,
    Closing,
    Digest,
    Entry,
    Loss,
    Outcome,
    Pairs,
    Presence,
    Record,
    Release,
    Resizing,
    Resumption,
    Stay,
    Tick,
)
from polyslo.gateway.requests.request import Request

ARRIVAL, DIGEST, LOSS, TICK, CLOSING, STAY, ENTRY, RELEASE, OUTCOME, CHOICE, HINTED, PRESENCE, RESIZING = range(1, 14)
RESUMPTION = 14
_ACTION = Struct("<Bii")
_ARRIVAL = Struct("<BIdIdddHBqq")
_EXPECTED = Struct("<q")
_DIGEST = Struct("<BIddII")
_LOSS = Struct("<BIdI")
_TICK = Struct("<BId")
_CLOSING = Struct("<BIdIB")
_STAY = Struct("<BIdII")
_RESUMPTION = Struct("<BIdIq")
_RESIZING = Struct("<BIdIqq")
_RECORD = Struct("<BI")
_OUTCOME = Struct("<BBBHIHqqdddd")
_CHOICE = Struct("<BIi")
_PRESENCE = Struct("<BBBdIH")
_MOST_NAME_BYTES = 0xFFFF
_HIDDEN, _BEST_EFFORT = 1, 2


def pack_arrival(r: int, request: Request, now_s: float, actions: Sequence[Sequence[int]]) -> bytes:
    """Encode an arrival and what was decided."""
    expected = request.expected_tokens
    return (
        _ARRIVAL.pack(
            HINTED if expected else ARRIVAL, len(actions), now_s, r, request.arrival_s, request.ttft_s,
            request.tpot_s, request.tier, _flags(request), request.input_tokens, request.max_tokens,
        )
        + (_EXPECTED.pack(expected) if expected else b"")
        + pack_actions(actions)
    )  # fmt: skip


def _flags(request: Request) -> int:
    return _HIDDEN * (not request.shows_tokens) | _BEST_EFFORT * request.is_best_effort


def pack_digest(
    news: npt.NDArray[np.int64],
    ended: npt.NDArray[np.int64],
    seen_s: float,
    now_s: float,
    actions: Sequence[Sequence[int]],
) -> bytes:
    """Encode a digest; the arrays as `core.streams` has them."""
    head = _DIGEST.pack(DIGEST, len(actions), now_s, seen_s, len(news), len(ended))
    return head + news.tobytes() + ended.tobytes() + pack_actions(actions)


def pack_loss(r: int, now_s: float, actions: Sequence[Sequence[int]]) -> bytes:
    """Encode a loss."""
    return _LOSS.pack(LOSS, len(actions), now_s, r) + pack_actions(actions)


def pack_tick(now_s: float, actions: Sequence[Sequence[int]]) -> bytes:
    """Encode a tick."""
    return _TICK.pack(TICK, len(actions), now_s) + pack_actions(actions)


def pack_closing(i: int, reason: int, now_s: float, actions: Sequence[Sequence[int]]) -> bytes:
    """Encode a closing."""
    return _CLOSING.pack(CLOSING, len(actions), now_s, i, reason) + pack_actions(actions)


def pack_stay(r: int, i: int, now_s: float, actions: Sequence[Sequence[int]]) -> bytes:
    """Encode that a request stays."""
    return _STAY.pack(STAY, len(actions), now_s, r, i) + pack_actions(actions)


def pack_resumption(r: int, prefill_tokens: int, now_s: float, actions: Sequence[Sequence[int]]) -> bytes:
    """Encode that a request goes on elsewhere."""
    return _RESUMPTION.pack(RESUMPTION, len(actions), now_s, r, prefill_tokens) + pack_actions(actions)


def pack_resizing(
    i: int, kv_capacity_tokens: int, max_residents: int, now_s: float, actions: Sequence[Sequence[int]]
) -> bytes:
    """Encode that an instance has another room."""
    told = _RESIZING.pack(RESIZING, len(actions), now_s, i, kv_capacity_tokens, max_residents)
    return told + pack_actions(actions)


def pack_entry(r: int) -> bytes:
    """Encode an entry."""
    return _RECORD.pack(ENTRY, r)


def pack_release(r: int) -> bytes:
    """Encode a release."""
    return _RECORD.pack(RELEASE, r)


def pack_outcome(o: Outcome) -> bytes:
    """Encode an outcome."""
    return _OUTCOME.pack(
        OUTCOME, OUTCOMES.index(o.outcome), o.is_relegated, o.tier, o.r, min(o.num_tries, 0xFFFF), o.prompt_tokens,
        o.output_tokens, o.arrival_s, o.ttft_s, o.first_s, o.last_s,
    )  # fmt: skip


def pack_choice(r: int, i: int | None) -> bytes:
    """Encode a shadow policy's choice."""
    return _CHOICE.pack(CHOICE, r, -1 if i is None else i)


def pack_presence(i: int, name: str, is_there: bool, role: int, now_s: float) -> bytes:
    """Encode that an instance joined, or left."""
    text = name.encode()[:_MOST_NAME_BYTES]
    return _PRESENCE.pack(PRESENCE, is_there, role, now_s, i, len(text)) + text


def pack_actions(actions: Sequence[Sequence[int]]) -> bytes:
    """Encode what was decided."""
    return b"".join([_ACTION.pack(*action) for action in actions])


def unpack_records(payload: bytes) -> Iterator[Record]:
    """Yield the records of a block. Raises `InputError` for what this version does not know."""
    at = 0
    try:
        while at < len(payload):
            record, at = _UNPACK[payload[at]](payload, at)
            yield record
    except (KeyError, error, IndexError, ValueError) as wrong:
        raise InputError(f"a record at byte {at:,} of a block is none that this version knows ({wrong})") from wrong


def _unpack_arrival(payload: bytes, at: int) -> tuple[Record, int]:
    kind, count, now_s, r, *request = _ARRIVAL.unpack_from(payload, at)
    arrival_s, ttft_s, tpot_s, tier, flags, input_tokens, max_tokens = request
    at, expected_tokens = at + _ARRIVAL.size, 0
    if kind == HINTED:
        (expected_tokens,) = _EXPECTED.unpack_from(payload, at)
        at += _EXPECTED.size
    actions, end = _unpack_actions(payload, at, count)
    return Arrival(
        now_s, r, arrival_s, ttft_s, tpot_s, tier, bool(flags & _HIDDEN), input_tokens, max_tokens, expected_tokens,
        bool(flags & _BEST_EFFORT), actions,
    ), end  # fmt: skip


def _unpack_digest(payload: bytes, at: int) -> tuple[Record, int]:
    _, count, now_s, seen_s, num_news, num_ended = _DIGEST.unpack_from(payload, at)
    news, at = _unpack_pairs(payload, at + _DIGEST.size, num_news)
    ended, at = _unpack_pairs(payload, at, num_ended)
    actions, end = _unpack_actions(payload, at, count)
    return Digest(now_s, seen_s, news, ended, actions), end


def _unpack_loss(payload: bytes, at: int) -> tuple[Record, int]:
    _, count, now_s, r = _LOSS.unpack_from(payload, at)
    actions, end = _unpack_actions(payload, at + _LOSS.size, count)
    return Loss(now_s, r, actions), end


def _unpack_tick(payload: bytes, at: int) -> tuple[Record, int]:
    _, count, now_s = _TICK.unpack_from(payload, at)
    actions, end = _unpack_actions(payload, at + _TICK.size, count)
    return Tick(now_s, actions), end


def _unpack_closing(payload: bytes, at: int) -> tuple[Record, int]:
    _, count, now_s, i, reason = _CLOSING.unpack_from(payload, at)
    actions, end = _unpack_actions(payload, at + _CLOSING.size, count)
    return Closing(now_s, i, reason, actions), end


def _unpack_resizing(payload: bytes, at: int) -> tuple[Record, int]:
    _, count, now_s, i, kv_capacity_tokens, max_residents = _RESIZING.unpack_from(payload, at)
    actions, end = _unpack_actions(payload, at + _RESIZING.size, count)
    return Resizing(now_s, i, kv_capacity_tokens, max_residents, actions), end


def _unpack_stay(payload: bytes, at: int) -> tuple[Record, int]:
    _, count, now_s, r, i = _STAY.unpack_from(payload, at)
    actions, end = _unpack_actions(payload, at + _STAY.size, count)
    return Stay(now_s, r, i, actions), end


def _unpack_resumption(payload: bytes, at: int) -> tuple[Record, int]:
    _, count, now_s, r, prefill_tokens = _RESUMPTION.unpack_from(payload, at)
    actions, end = _unpack_actions(payload, at + _RESUMPTION.size, count)
    return Resumption(now_s, r, prefill_tokens, actions), end


def _unpack_entry(payload: bytes, at: int) -> tuple[Record, int]:
    _, r = _RECORD.unpack_from(payload, at)
    return Entry(r), at + _RECORD.size


def _unpack_release(payload: bytes, at: int) -> tuple[Record, int]:
    _, r = _RECORD.unpack_from(payload, at)
    return Release(r), at + _RECORD.size


def _unpack_outcome(payload: bytes, at: int) -> tuple[Record, int]:
    _, outcome, is_relegated, tier, r, *numbers = _OUTCOME.unpack_from(payload, at)
    return Outcome(r, OUTCOMES[outcome], bool(is_relegated), tier, *numbers), at + _OUTCOME.size


def _unpack_choice(payload: bytes, at: int) -> tuple[Record, int]:
    _, r, i = _CHOICE.unpack_from(payload, at)
    return Choice(r, None if i < 0 else i), at + _CHOICE.size


def _unpack_presence(payload: bytes, at: int) -> tuple[Record, int]:
    _, is_there, role, now_s, i, size = _PRESENCE.unpack_from(payload, at)
    end = at + _PRESENCE.size + size
    if end > len(payload):
        raise IndexError(f"a name of {size} bytes")
    return Presence(now_s, i, bool(is_there), role, payload[end - size : end].decode(errors="replace")), end


def _unpack_pairs(payload: bytes, at: int, count: int) -> tuple[Pairs, int]:
    pairs = np.frombuffer(payload, dtype="<i8", count=2 * count, offset=at) if count else np.empty(0, np.int64)
    return list(map(tuple, pairs.reshape(count, 2).tolist())), at + 16 * count


def _unpack_actions(payload: bytes, at: int, count: int) -> tuple[list[Action], int]:
    end = at + count * _ACTION.size
    if end > len(payload):
        raise IndexError(f"{count} actions")
    return list(_ACTION.iter_unpack(payload[at:end])) if count else [], end


_UNPACK = {
    ARRIVAL: _unpack_arrival,
    HINTED: _unpack_arrival,
    DIGEST: _unpack_digest,
    LOSS: _unpack_loss,
    TICK: _unpack_tick,
    CLOSING: _unpack_closing,
    RESIZING: _unpack_resizing,
    STAY: _unpack_stay,
    RESUMPTION: _unpack_resumption,
    ENTRY: _unpack_entry,
    RELEASE: _unpack_release,
    OUTCOME: _unpack_outcome,
    CHOICE: _unpack_choice,
    PRESENCE: _unpack_presence,
}
