"""Streams that go past Python: while an engine sends nothing but tokens, compiled code passes them on.

Belief hears of tokens as they come. A stream's own count and its deadlines are kept where it passes, when its events
are a token each, and told to its relay when `Detour.settle` asks and when the stream comes back: with the first byte
that is anything else. Both connections stay as they are meanwhile: the engine's is not read, the client's is not
written to, and whichever of them ends takes the stream back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Protocol

import numpy as np
import numpy.typing as npt

from polyslo.gateway.relays.counting import Reckoning
from polyslo.gateway.relays.token_pipe import (
    BUFFER_BYTES,
    EVENT_WORDS,
    FOUND,
    LINK,
    MOST_READY,
    NONE,
    SO_COOKIE,
    WATCHED,
    is_same,
    pass_on,
)
from polyslo.wire.call import Call, Failure, report
from polyslo.wire.exchange import Exchange

SawMany = Callable[[npt.NDArray[np.int64], float], object]
log = logging.getLogger("polyslo")
_FIRST_SOCKETS = 1024


class Passenger(Protocol):
    """Whose stream goes past Python: its relay."""

    detour: Detour | None  # while it does

    @property
    def count_kind(self) -> int:
        """How the stream's events say how many tokens they carry, of `count_kinds`."""

    def reckoning(self) -> Reckoning | None:
        """Return what to count on from; None: it counts by itself."""

    def on_events(self, events: int, told: int) -> None:
        """Events came, which it counts by itself, and told what their kind tells."""

    def on_counted(self, tokens: int, last_s: float, late_ratio: float) -> None:
        """So many tokens were counted since it was last told: see `Tally.add_counted`."""


def bypass_on(loop: asyncio.AbstractEventLoop, saw_many: SawMany) -> Bypass | None:
    """Return a bypass for an event loop, or None where the system lacks what it takes."""
    try:
        return Bypass(loop, saw_many)
    except OSError as error:
        log.info("tokens go through Python, as %s", error)
        return None


def warm_up() -> None:
    """Load the compiled code, or compile it, as making one does."""
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        bypass = bypass_on(loop, lambda news, seen_s: None)
        if bypass is not None:
            bypass.close()


class Bypass:
    """The streams of an event loop that go past Python."""

    def __init__(self, loop: asyncio.AbstractEventLoop, saw_many: SawMany) -> None:
        """`saw_many` hears of tokens: rows of a request and how many of it, overwritten by the next ones, and when.

        Raises `OSError` where the system lacks what it takes.
        """
        if not hasattr(select, "epoll"):
            raise OSError("this system has no epoll")
        with socket.socket() as probe:
            if not is_same(probe.fileno(), _cookie(probe.fileno())):
                raise OSError("this system's sockets have no cookies")
        self.links = np.zeros(_FIRST_SOCKETS, LINK)  # by the engine's socket
        self._loop = loop
        self._saw_many = saw_many
        self._detours: dict[int, Detour] = {}  # by the engine's socket
        self._events = np.zeros(MOST_READY * EVENT_WORDS, np.int32)
        self._buffer = np.zeros(BUFFER_BYTES, np.uint8)
        self._bytes = self._buffer.data
        self._found = np.zeros(MOST_READY, FOUND)
        self._news = np.zeros((MOST_READY, 2), np.int64)
        self._epoll = select.epoll()
        self._file = self._epoll.fileno()
        self.serve()  # of nothing: what is compiled is loaded now, and not with the first token
        loop.add_reader(self._file, self.serve)

    def __len__(self) -> int:
        return len(self._detours)

    @property
    def num_unheard(self) -> int:
        """Tokens that no passenger has been told of yet."""
        return int(self.links["num_unheard"].sum())

    def has(self, detour: Detour) -> bool:
        """Tell whether a stream is on this way still."""
        return self._detours.get(detour.source) is detour

    def open_soon(self, call: Call, exchange: Exchange, passenger: Passenger) -> None:
        """Let a stream go past Python, once what was written to its client has gone.

        Nothing happens where it can't, as when the client is behind.
        """
        self._loop.call_soon(self._open, call, exchange, passenger)

    def recount(self) -> None:
        """Ask anew who counts: how many tokens an engine's events have is seen otherwise now."""
        for detour in self._detours.values():
            detour.reckon()

    def close(self) -> None:
        """Let everything go through Python again; once more does nothing."""
        if self._epoll.closed:
            return
        for detour in list(self._detours.values()):
            detour.stop()
            detour.call.take_back(b"")
        self._loop.remove_reader(self._file)
        self._epoll.close()

    def leave(self, detour: Detour) -> None:
        """Watch a stream no longer, unless its socket's number is another's by now."""
        if self.has(detour):
            detour.settle()
            del self._detours[detour.source]
            with contextlib.suppress(OSError):  # its connection has closed it before it told of its end
                self._epoll.unregister(detour.source)

    def serve(self) -> None:
        """Pass on what engines have sent, and tell of it."""
        now_s = monotonic()
        num_news, num_found = pass_on(self._file, self.links, self._events, self._buffer, self._news, self._found)
        rows = self._found[:num_found].tolist() if num_found else ()
        detours = [self._detours[row[0]] for row in rows]  # looked up now, as what follows may end some
        if num_news:
            try:
                self._saw_many(self._news[:num_news], now_s)
            except Exception as error:  # the streams themselves can go on
                self._loop.call_exception_handler({"message": "news of tokens was not taken", "exception": error})
        for detour, (_, num_events, told, _, _) in zip(detours, rows, strict=True):
            if num_events and told != NONE and not detour.call.is_over:
                detour.guard(partial(detour.passenger.on_events, num_events, told))
        for detour, (_, num_events, _, start, end) in zip(detours, rows, strict=True):
            if (start < end or not num_events) and not detour.call.is_over:
                detour.guard(partial(detour.end, bytes(self._bytes[start:end]), are_tokens=num_events > 0))

    def _open(self, call: Call, exchange: Exchange, passenger: Passenger) -> None:
        target = None if self._epoll.closed else exchange.clear_socket
        if target is None:
            return
        cookie = _cookie(target)
        detour = Detour(self, call, exchange, passenger)
        source = call.lend(detour)
        if source is None:
            return
        if source >= len(self.links):
            self.links = np.concatenate([self.links, np.zeros(max(len(self.links), source), LINK)])
        if source in self._detours:  # its number was another's, which has not heard of its end yet
            self._detours[source].settle()
        self.links[source] = np.zeros((), LINK)
        link = self.links[source]
        link["target"], link["kind"], link["cookie"] = target, passenger.count_kind, cookie
        link["heard_s"] = monotonic()
        detour.source = source
        self._detours[source] = passenger.detour = detour
        detour.reckon()
        try:
            self._epoll.register(source, WATCHED)
        except OSError:  # the system watches no more
            detour.stop()
            call.take_back(b"")


class Detour:
    """One stream on its way past Python; the `Borrower` of its engine's connection."""

    __slots__ = ("_bypass", "_exchange", "call", "passenger", "source")

    def __init__(self, bypass: Bypass, call: Call, exchange: Exchange, passenger: Passenger) -> None:
        self._bypass = bypass
        self._exchange = exchange
        self.passenger = passenger
        self.call = call
        self.source = NONE

    @property
    def heard_s(self) -> float:
        """See `Borrower`."""
        return float(self._bypass.links["heard_s"][self.source])

    def reckon(self) -> None:
        """Settle who counts from now on."""
        self.settle()
        link, reckoning = self._bypass.links[self.source], self.passenger.reckoning()
        link["r"] = NONE
        if reckoning is not None:
            link["r"], link["num_tokens"], link["num_events"], link["due_s"], link["tpot_s"] = reckoning

    def settle(self) -> None:
        """Tell the passenger what was counted."""
        if not self._bypass.has(self):
            return
        link = self._bypass.links[self.source]
        tokens = int(link["num_unheard"])
        if tokens:
            link["num_unheard"] = 0
            self.passenger.on_counted(tokens, float(link["heard_s"]), float(link["late_ratio"]))

    def stop(self) -> None:
        """See `Borrower`."""
        self._bypass.leave(self)
        self.passenger.detour = None

    def guard(self, act: Callable[[], object]) -> None:
        """Do something for it; if that fails, it ends."""
        try:
            act()
        except Exception as error:
            report(self.call.sink, error)
            self.call.break_off(Failure("reset", "the sink failed", started=True))

    def end(self, data: bytes, *, are_tokens: bool) -> None:
        """Go on through Python, with bytes that were read: tokens that the client did not take, or something else."""
        self.stop()
        if are_tokens:
            self._exchange.write_framed(data)
        self.call.take_back(b"" if are_tokens else data)


def _cookie(file: int) -> int:
    """Return what the kernel calls a socket, of all that there ever were."""
    with socket.socket(fileno=file) as borrowed:
        try:
            return int.from_bytes(borrowed.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little", signed=True)
        finally:
            borrowed.detach()
