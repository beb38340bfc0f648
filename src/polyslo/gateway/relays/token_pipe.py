"""From an engine's socket to a client's in compiled code: what is nothing but tokens goes on as it came.

Reads what is ready, looks whether it is whole HTTP chunks, each a server-sent event with a piece of an answer, and
sends it on with its framing. Where events say how many tokens they carry (`count_kinds`) that is read on the way,
byte by byte, as `stream_tokens` does it in Python. Where each event is one token they are also counted here, and held
against their deadlines as `Tally` does it in Python, which hears of all of them now and then. Whatever else comes (the
end of an answer, an error, a comment, half a chunk, a client that takes no more) is left to Python. Linux alone: epoll,
and sockets that can be told apart.
"""

from __future__ import annotations

import platform
import select
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from polyslo.compiled import compiled
from polyslo.gateway.belief.count_kinds import EVENTS, LISTED, STATED

MOST_READY = 64  # sockets in a turn of the event loop, so that decisions do not wait long
PIECE_BYTES = 4096  # read from one of them; tokens that come in larger pieces cost little each in Python, too
BUFFER_BYTES = MOST_READY * PIECE_BYTES + 64  # looked at a little beyond the last piece

LINK = np.dtype(
    [
        ("target", np.int32),  # the client's socket
        ("kind", np.int32),  # of counting: see `count_kinds`
        ("cookie", np.int64),  # what the kernel calls that socket: a number may be another's by now
        ("heard_s", np.float64),  # when tokens last came
        ("r", np.int64),  # its request, whose tokens are counted here; NONE: Python counts them
        ("num_tokens", np.int64),  # so far
        ("num_events", np.int64),  # that were tokens, so far
        ("num_unheard", np.int64),  # tokens of these that Python has not heard of
        ("due_s", np.float64),  # when the first token was due
        ("tpot_s", np.float64),
        ("late_ratio", np.float64),  # see `Tally`; 0 while no token has been late
    ],
    align=True,
)
FOUND = np.dtype(
    [
        ("source", np.int64),  # the engine's socket
        ("num_events", np.int64),  # that were sent, or are in what is left; 0: it was no tokens
        ("told", np.int64),  # by them: how many events, ids of tokens, or tokens so far; NONE: they were counted
        ("start", np.int64),  # of what is left to Python, in the buffer
        ("end", np.int64),
    ],
    align=True,
)

# A record of epoll_wait: 32 bits of events, 64 of data, of which the socket is the lower half; packed on x86-64 alone.
EVENT_WORDS, SOCKET_WORD = (3, 1) if platform.machine() in ("x86_64", "AMD64") else (4, 2)

NONE = -1

# Each arrival is told of once, and so is the peer's end.
WATCHED = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET if hasattr(select, "epoll") else 0

_WATCHED_WORD = np.uint32(WATCHED).astype(np.int32)
_ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR if hasattr(select, "epoll") else 0
_EPOLL_CTL_MOD, _CLOCK_MONOTONIC = 3, 1
_MSG_DONTWAIT, _MSG_NOSIGNAL = 0x40, 0x4000
_SOL_SOCKET, SO_COOKIE = 1, 57
_LF, _CR, _QUOTE, _SPACE, _COLON, _BACKSLASH = 10, 13, 34, 32, 58, 92

_address, _size, _int = types.uintp, types.intp, types.intc
_epoll_wait: Any = types.ExternalFunction("epoll_wait", _int(_int, _address, _int, _int))
_epoll_ctl: Any = types.ExternalFunction("epoll_ctl", _int(_int, _int, _int, _address))
_clock_gettime: Any = types.ExternalFunction("clock_gettime", _int(_int, _address))
_recv: Any = types.ExternalFunction("recv", _size(_int, _address, _address, _int))
_send: Any = types.ExternalFunction("send", _size(_int, _address, _address, _int))
_getsockopt: Any = types.ExternalFunction("getsockopt", _int(_int, _int, _int, _address, _address))

_PREFIX = np.frombuffer(b"data: {", np.uint8)
_ERROR = np.frombuffer(b'"err', np.uint8)
_USAGE = np.frombuffer(b'"completion_tokens"', np.uint8)
_IDS = np.frombuffer(b'"token_ids"', np.uint8)
_REASON = np.frombuffer(b'"finish_reason"', np.uint8)
_CHOICES = np.frombuffer(b'"choices"', np.uint8)

Bytes = npt.NDArray[np.uint8]


@compiled
def pass_on(
    epoll: int, links: npt.NDArray[np.void], events: npt.NDArray[np.int32], buffer: Bytes,
    news: npt.NDArray[np.int64], found: npt.NDArray[np.void],
) -> tuple[int, int]:  # fmt: skip
    """Serve what is ready at `epoll`; return how many rows of `news` and of `found` [both MOST_READY] tell of it.

    A row of `news` has a request and how many tokens of it were counted. `found` has what is left to Python: tokens to
    count, and bytes from `start` to `end` that were read and not sent. `links` [any socket] has those that are watched,
    `events` [MOST_READY * EVENT_WORDS] and `buffer` [BUFFER_BYTES] are for scratch.
    """
    ready = _epoll_wait(epoll, events.ctypes.data, MOST_READY, 0)
    memory, free = buffer.ctypes.data, 0  # of the buffer, from where on it is free
    scratch = np.empty(2, np.int64)
    num_news = num_found = 0
    for k in range(ready):
        flags, source = events[EVENT_WORDS * k], events[EVENT_WORDS * k + SOCKET_WORD]
        link = links[source]
        read = max(0, _recv(source, memory + free, PIECE_BYTES, _MSG_DONTWAIT))
        num_events, told = count(buffer, free, free + read, link.kind)
        start, end = free, free + read
        if num_events > 0:
            link.heard_s = _now_s(scratch)
            if _is_same(link.target, link.cookie, scratch):
                start += max(0, _send(link.target, memory + free, read, _MSG_DONTWAIT | _MSG_NOSIGNAL))
            if link.r != NONE:
                count_one_each(link, num_events)
                news[num_news, 0], news[num_news, 1] = link.r, num_events
                num_news += 1
                told = NONE
        if start < end or told != NONE or num_events == 0:
            row = found[num_found]
            row.source, row.num_events, row.told, row.start, row.end = source, num_events, told, start, end
            num_found += 1
        if start < end:
            free = end
        elif read == PIECE_BYTES or flags & _ENDED:  # there is more, or its end, of which nobody would tell again
            events[EVENT_WORDS * k] = _WATCHED_WORD
            _epoll_ctl(epoll, _EPOLL_CTL_MOD, source, events.ctypes.data + 4 * EVENT_WORDS * k)
    return num_news, num_found


@compiled
def _now_s(scratch: npt.NDArray[np.int64]) -> float:
    """Return the time by Python's `monotonic`."""
    _clock_gettime(_CLOCK_MONOTONIC, scratch.ctypes.data)
    return scratch[0] + 1e-9 * scratch[1]


@compiled
def count_one_each(link: Any, num_events: int) -> None:
    """Count events of a token each that have come now. As `Tally.add`."""
    if link.heard_s > link.due_s + link.num_tokens * link.tpot_s:
        due_now = (link.heard_s - link.due_s) / link.tpot_s
        ratio = (due_now - 1.0) / (link.num_events - 1) if link.num_events > 1 else np.inf
        link.late_ratio = max(link.late_ratio, ratio)
    link.num_tokens += num_events
    link.num_events += num_events
    link.num_unheard += num_events


def is_same(socket: int, cookie: int) -> bool:
    """Tell whether a socket's number is still that of the socket with this cookie."""
    return bool(_is_same(socket, cookie, np.empty(2, np.int64)))


@compiled
def _is_same(socket: int, cookie: int, scratch: npt.NDArray[np.int64]) -> bool:
    scratch[1] = 8
    failed = _getsockopt(socket, _SOL_SOCKET, SO_COOKIE, scratch.ctypes.data, scratch.ctypes.data + 8)
    return failed == 0 and scratch[0] == cookie


@compiled
def count(buffer: Bytes, start: int, end: int, kind: int) -> tuple[int, int]:
    """Count the chunks between two places in the buffer; 0 where there is anything but whole chunks of tokens.

    Returns with it what they tell: how many they are, or the ids in them, or how many tokens the last one states.
    """
    num_events = told = 0
    while start < end:
        payload, stop = _chunk(buffer, start, end)
        if stop == 0:
            return 0, 0
        one = _told(buffer, payload, stop - 2, kind)
        if one == NONE:
            return 0, 0
        told = one if kind == STATED else told + one
        num_events += 1
        start = stop
    return num_events, told


@compiled
def _chunk(buffer: Bytes, start: int, end: int) -> tuple[int, int]:
    """Return where the payload of a chunk begins and where the chunk ends; 0, 0 where it is not whole, or the last."""
    size, i = 0, start
    while i < end and i < start + 4:
        byte = buffer[i]
        if ord("0") <= byte <= ord("9"):
            size = 16 * size + byte - ord("0")
        elif ord("a") <= byte <= ord("f"):
            size = 16 * size + byte - ord("a") + 10
        else:
            break
        i += 1
    stop = i + size + 4
    if i == start or size == 0 or stop > end:
        return 0, 0
    if buffer[i] != _CR or buffer[i + 1] != _LF or buffer[stop - 2] != _CR or buffer[stop - 1] != _LF:
        return 0, 0
    return i + 2, stop


@compiled
def _told(buffer: Bytes, start: int, end: int, kind: int) -> int:
    r"""Return what an event of an answer that goes on tells of its tokens: `data: {...}`, two LF.

    NONE with an error, a reason to finish, no choices, a count where it is not each event's, none where it is. Quotes
    and ends of lines inside JSON's texts are escaped, so none of these can be something that a model has said.
    """
    if end - start < _PREFIX.shape[0] + 2 or buffer[end - 1] != _LF or buffer[end - 2] != _LF:
        return NONE
    if not _has(buffer, start, _PREFIX):
        return NONE
    told = 1 if kind == EVENTS else NONE
    for i in range(start, end - 2):
        byte = buffer[i]
        if byte in (_LF, _CR):
            return NONE
        if byte == _QUOTE and buffer[i - 1] != _BACKSLASH:
            if _has(buffer, i, _ERROR):
                return NONE
            if _has(buffer, i, _USAGE):
                if kind != STATED:
                    return NONE
                told = max(told, _whole(buffer, _value(buffer, i + _USAGE.shape[0])))
            if kind == LISTED and _has(buffer, i, _IDS):
                told = max(told, _length(buffer, _value(buffer, i + _IDS.shape[0])))
            if _has(buffer, i, _REASON) and buffer[_value(buffer, i + _REASON.shape[0])] != ord("n"):
                return NONE
            if _has(buffer, i, _CHOICES):
                value = _value(buffer, i + _CHOICES.shape[0])
                if buffer[value] == ord("[") and buffer[_value(buffer, value + 1)] == ord("]"):
                    return NONE
    return told


@compiled
def _whole(buffer: Bytes, i: int) -> int:
    """Return the whole number of up to nine digits at a place of the buffer; NONE where there is none."""
    number, first = 0, i
    while ord("0") <= buffer[i] <= ord("9") and i < first + 10:
        number = 10 * number + buffer[i] - ord("0")
        i += 1
    ends = buffer[i] == ord(",") or buffer[i] == ord("}") or buffer[i] == _SPACE
    return number if ends and first < i < first + 10 else NONE


@compiled
def _length(buffer: Bytes, i: int) -> int:
    """Return how many numbers the list at a place of the buffer has; NONE where there is no list."""
    if buffer[i] != ord("["):
        return NONE
    numbers = commas = 0
    while buffer[i] != ord("]"):
        if buffer[i] == _LF:
            return NONE
        numbers |= ord("0") <= buffer[i] <= ord("9")
        commas += buffer[i] == ord(",")
        i += 1
    return commas + numbers


@compiled
def _has(buffer: Bytes, start: int, text: Bytes) -> bool:
    """Tell whether a text stands at a place of the buffer."""
    for k in range(text.shape[0]):  # noqa: SIM110
        if buffer[start + k] != text[k]:
            return False
    return True


@compiled
def _value(buffer: Bytes, i: int) -> int:
    """Return where what follows a key begins. An event ends with LF, so the buffer does not."""
    while buffer[i] == _SPACE or buffer[i] == _COLON:
        i += 1
    return i
