"""Streams that go past Python: while an engine sends nothing but tokens, compiled code passes them on.

Python hears how many there were, so that belief, deadlines and metrics stay as they are, and gets the stream back
with the first byte that is anything else. Both connections stay as they are meanwhile: the engine's is not read, the
client's is not written to, and whichever of them ends takes the stream back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
from collections.abc import Callable

import numpy as np

from polyslo.gateway.belief.count_kinds import EVENTS
from polyslo.gateway.relays.token_pipe import (
    BUFFER_BYTES,
    EVENT_WORDS,
    FOUND,
    LINK,
    MOST_READY,
    SO_COOKIE,
    is_same,
    pass_on,
)
from polyslo.wire.call import Call, Failure, report
from polyslo.wire.exchange import Exchange

OnEvents = Callable[[int, int], None]
log = logging.getLogger("polyslo")
_FIRST_SOCKETS = 1024


def bypass_on(loop: asyncio.AbstractEventLoop) -> Bypass | None:
    """Return a bypass for an event loop, or None where the system lacks what it takes."""
    try:
        return Bypass(loop)
    except OSError as error:
        log.info("tokens go through Python, as %s", error)
        return None


def warm_up() -> None:
    """Load the compiled code, or compile it, as making one does."""
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        bypass = bypass_on(loop)
        if bypass is not None:
            bypass.close()


class Bypass:
    """The streams of an event loop that go past Python."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises `OSError` where the system lacks what it takes."""
        if not hasattr(select, "epoll"):
            raise OSError("this system has no epoll")
        with socket.socket() as probe:
            if not is_same(probe.fileno(), _cookie(probe.fileno())):
                raise OSError("this system's sockets have no cookies")
        self._loop = loop
        self._detours: dict[int, Detour] = {}  # by the engine's socket
        self._links = np.zeros(_FIRST_SOCKETS, LINK)
        self._events = np.zeros(MOST_READY * EVENT_WORDS, np.int32)
        self._buffer = np.zeros(BUFFER_BYTES, np.uint8)
        self._bytes = self._buffer.data
        self._found = np.zeros(MOST_READY, FOUND)
        self._epoll = select.epoll()
        self._file = self._epoll.fileno()
        self.serve()  # of nothing: what is compiled is loaded now, and not with the first token
        loop.add_reader(self._file, self.serve)

    def __len__(self) -> int:
        return len(self._detours)

    def open_soon(self, call: Call, exchange: Exchange, on_events: OnEvents, kind: int = EVENTS) -> None:
        """Let a stream go past Python, once what was written to its client has gone.

        `on_events` hears how many events came, and what they told of their tokens (`count_kinds`). Nothing happens
        where it can't, as when the client is behind.
        """
        self._loop.call_soon(self._open, call, exchange, on_events, kind)

    def close(self) -> None:
        """Let everything go through Python again; once more does nothing."""
        if self._epoll.closed:
            return
        for detour in list(self._detours.values()):
            detour.stop()
            detour.call.take_back(b"")
        self._loop.remove_reader(self._file)
        self._epoll.close()

    def heard_s(self, detour: Detour) -> float:
        """Return when a stream's engine was last heard."""
        return float(self._links["heard_s"][detour.source])

    def leave(self, detour: Detour) -> None:
        """Watch a stream no longer, unless its socket's number is another's by now."""
        if self._detours.get(detour.source) is detour:
            del self._detours[detour.source]
            with contextlib.suppress(OSError):  # its connection has closed it before it told of its end
                self._epoll.unregister(detour.source)

    def serve(self) -> None:
        """Pass on what engines have sent, and tell of it."""
        now_s = self._loop.time()
        count = pass_on(self._file, now_s, self._links, self._events, self._buffer, self._found)
        rows = self._found[:count].tolist()
        detours = [self._detours[row[0]] for row in rows]  # now: what follows from one may end another
        for detour, (_, num_events, told, start, end) in zip(detours, rows, strict=True):
            try:
                if num_events and not detour.call.is_over:
                    detour.on_events(num_events, told)
                if start < end or not num_events:
                    detour.end(bytes(self._bytes[start:end]), are_tokens=num_events > 0)
            except Exception as error:
                detour.fail(error)

    def _open(self, call: Call, exchange: Exchange, on_events: OnEvents, kind: int) -> None:
        target = None if self._epoll.closed else exchange.clear_socket
        if target is None:
            return
        cookie = _cookie(target)
        detour = Detour(self, call, exchange, on_events)
        source = call.lend(detour)
        if source is None:
            return
        if source >= len(self._links):
            self._links = np.concatenate([self._links, np.zeros(max(len(self._links), source), LINK)])
        self._links[source] = target, kind, cookie, self._loop.time()
        detour.source = source
        self._detours[source] = detour
        try:
            self._epoll.register(source, select.EPOLLIN)
        except OSError:  # the system watches no more
            detour.stop()
            call.take_back(b"")


class Detour:
    """One stream on its way past Python; the `Borrower` of its engine's connection."""

    __slots__ = ("_bypass", "_exchange", "call", "on_events", "source")

    def __init__(self, bypass: Bypass, call: Call, exchange: Exchange, on_events: OnEvents) -> None:
        self._bypass = bypass
        self._exchange = exchange
        self.on_events = on_events
        self.call = call
        self.source = -1

    @property
    def heard_s(self) -> float:
        """See `Borrower`."""
        return self._bypass.heard_s(self)

    def stop(self) -> None:
        """See `Borrower`."""
        self._bypass.leave(self)

    def fail(self, error: Exception) -> None:
        """End it: whoever is told of its tokens has failed."""
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
