"""A client's connection: whose turn it is, how long it may take, and how it closes.

Requests are answered in order, one exchange at a time; what a client sends ahead waits unread beyond a bound. A
connection is always in one stage, and each stage that waits for the client has its time:

    head    a request's head is coming      head_timeout_s    408
    body    its body is coming              body_timeout_s    408
    busy    the handler has it              none
    stuck   the client takes no bytes       idle_timeout_s    cut, unless it took some meanwhile
    idle    between requests                idle_timeout_s    closed
    parting the last response is leaving    as stuck
"""

from __future__ import annotations

import asyncio
import enum
from typing import Protocol, cast

from polyslo.wire.deadline import Deadline
from polyslo.wire.exchange import Exchange, Handler
from polyslo.wire.fields import response_head
from polyslo.wire.head import BadRequestError, Request
from polyslo.wire.limits import Limits
from polyslo.wire.reader import RequestReader

_HIGH_WATER_BYTES = 64 * 1024
_MAX_AHEAD_BYTES = 64 * 1024  # sent ahead of the response to the present request
_REQUESTS_A_TURN = 8  # answered to one client before other connections have their turn
_JSON = ((b"content-type", b"application/json"),)
_LINGER_S = 2.0  # a refused client may go on sending so long; closing under it could destroy the answer


class Stage(enum.Enum):
    """What the connection waits for."""

    HEAD = enum.auto()
    BODY = enum.auto()
    BUSY = enum.auto()
    STUCK = enum.auto()
    IDLE = enum.auto()
    PARTING = enum.auto()


class Owner(Protocol):
    """What a connection needs of its listener."""

    limits: Limits
    handler: Handler
    is_draining: bool

    def admit(self, connection: ClientConnection) -> bool:
        """Count the connection in; false when there are too many."""

    def forget(self, connection: ClientConnection) -> None:
        """Count it out."""

    def refused(self) -> None:
        """Count a request that is no HTTP, too large or too slow."""


class ClientConnection(asyncio.Protocol):
    """One connection, from accepting to closing."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._limits = owner.limits
        self._reader = RequestReader(owner.limits)
        self._exchange: Exchange | None = None
        self._stage = Stage.HEAD
        self._is_advancing = False
        self._is_reading_paused = False
        self._last_unsent_bytes = 0
        self.is_blocked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a head, or turn the client away."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(_HIGH_WATER_BYTES)
        self._loop = asyncio.get_running_loop()
        self._deadline = Deadline(self._loop, self._on_due)
        peername = transport.get_extra_info("peername")
        self._peer = str(peername[0]) if isinstance(peername, tuple) else ""
        if self._owner.admit(self):
            self._deadline.set(self._limits.head_timeout_s)
        else:
            self.transport.write(_error_response(503, "too many connections"))
            self._close()

    def data_received(self, data: bytes) -> None:
        """Take bytes; while an exchange is under way they only wait."""
        if self._stage is Stage.PARTING:
            return
        self._reader.feed(data)
        if self._exchange is None:
            self._advance()
        self._regulate_reading()

    def eof_received(self) -> None:
        """Take the client's end of sending for its leaving, as proxies do; the transport closes by itself."""
        self._part()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        self._part()
        self._deadline.stop()
        self._owner.forget(self)  # last: whoever waits for the last connection finds its handler told

    def pause_writing(self) -> None:
        """Note that the client takes less than it is sent."""
        self.is_blocked = True
        if self._stage is Stage.PARTING or self._stage is Stage.STUCK:
            return
        self._last_unsent_bytes = self.transport.get_write_buffer_size()
        self._enter(Stage.STUCK, self._limits.idle_timeout_s)
        self._tell_blocked(True)

    def resume_writing(self) -> None:
        """Note that the client has caught up; act on it in the loop's next turn.

        asyncio's transports can't bear to be closed from inside this call, and the end of a response may close.
        """
        self.is_blocked = False
        self._loop.call_soon(self._unstick)

    def keeps_alive(self, request: Request) -> bool:
        """Whether another request may follow this one."""
        return request.keeps_alive and not self._owner.is_draining

    def ended(self, keeps_alive: bool) -> None:
        """Go on to the next request, or close once everything is sent."""
        self._exchange = None
        if keeps_alive:
            self._advance()
        else:
            self._close()

    def cut(self) -> None:
        """Close at once, whatever is still unsent."""
        self._part()
        self.transport.abort()

    def check_unsent(self) -> None:
        """Cut if the handler went on writing to a client that is far behind."""
        if self.transport.get_write_buffer_size() > self._limits.max_unsent_bytes:
            self.cut()

    def drain(self) -> None:
        """Close now if nothing is under way; otherwise `keeps_alive` sees to it."""
        if self._stage is Stage.IDLE or (self._stage is Stage.HEAD and not self._reader.num_buffered):
            self._close()

    def _unstick(self) -> None:
        if self.is_blocked or self._stage is not Stage.STUCK:
            return
        self._enter(Stage.BUSY, None)
        if self._exchange is not None:
            self._tell_blocked(False)
        else:
            self._advance()

    def _regulate_reading(self) -> None:
        """Leave what is far ahead with the client. Its leaving is not seen meanwhile, so not before that."""
        is_ahead = self._reader.num_buffered > _MAX_AHEAD_BYTES and self._stage in (Stage.BUSY, Stage.STUCK)
        if is_ahead == self._is_reading_paused or self.transport.is_closing():
            return
        self._is_reading_paused = is_ahead
        if is_ahead:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _advance(self) -> None:
        if self._is_advancing:
            return  # a handler answered at once; the loop below goes on
        self._is_advancing = True
        try:
            for _ in range(_REQUESTS_A_TURN):
                if not self._serve_next():
                    break
            else:
                self._loop.call_soon(self._advance)
        finally:
            self._is_advancing = False

    def _serve_next(self) -> bool:
        """Hand the next request to the handler; return whether the one after it may be looked at."""
        if self._exchange is not None or self._stage is Stage.PARTING or self._stage is Stage.STUCK:
            return False
        try:
            request = self._reader.next_request()
        except BadRequestError as bad:
            self._refuse(bad.status, bad.detail)
            return False
        if request is None:
            self._await_more()
            self._regulate_reading()
            return False
        self._enter(Stage.BUSY, None)
        self._regulate_reading()
        exchange = self._exchange = Exchange(request, self._peer, self)
        try:
            self._owner.handler(exchange)
        except Exception as error:
            self._fail(exchange, error)
        return self._exchange is None

    def _await_more(self) -> None:
        if self._reader.awaits_body:
            if self._stage is not Stage.BODY:
                self._enter(Stage.BODY, self._limits.body_timeout_s)
            if self._reader.claim_expectation():
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif self._reader.num_buffered:
            if self._stage is not Stage.HEAD:
                self._enter(Stage.HEAD, self._limits.head_timeout_s)
        elif self._owner.is_draining:
            self._close()
        elif self._stage is not Stage.HEAD:  # that is where a new connection is, and where an empty line leaves it
            self._enter(Stage.IDLE, self._limits.idle_timeout_s)

    def _enter(self, stage: Stage, timeout_s: float | None) -> None:
        self._stage = stage
        if timeout_s is None:
            self._deadline.clear()
        else:
            self._deadline.set(timeout_s)

    def _on_due(self) -> None:
        if self._stage is Stage.BODY or (self._stage is Stage.HEAD and self._reader.num_buffered):
            self._refuse(408, "the request did not come in time")
        elif self._stage is Stage.STUCK or self._stage is Stage.PARTING:
            self._cut_unless_taking()
        else:
            self._close()

    def _cut_unless_taking(self) -> None:
        unsent_bytes = self.transport.get_write_buffer_size()
        if 0 < unsent_bytes < self._last_unsent_bytes:
            self._last_unsent_bytes = unsent_bytes
            self._deadline.set(self._limits.idle_timeout_s)
        else:
            self.cut()

    def _fail(self, exchange: Exchange, error: Exception) -> None:
        self._report(exchange, error)
        if exchange.has_started:
            exchange.abort()
        else:
            exchange.respond(500, _JSON, _error_body(500, "internal error"))

    def _refuse(self, status: int, detail: str) -> None:
        """Answer and close, but read on for a while: a client that still sends would otherwise see a reset."""
        self._owner.refused()
        self.transport.write(_error_response(status, detail))
        if not self.transport.can_write_eof():
            self._close()  # TLS ends both directions at once
            return
        self._enter(Stage.PARTING, _LINGER_S)
        self.transport.write_eof()

    def _close(self) -> None:
        self._last_unsent_bytes = self.transport.get_write_buffer_size()
        self._enter(Stage.PARTING, self._limits.idle_timeout_s)
        self.transport.close()

    def _part(self) -> None:
        self._enter(Stage.PARTING, self._limits.idle_timeout_s)
        if self._exchange is not None:
            exchange, self._exchange = self._exchange, None
            try:
                exchange.leave()
            except Exception as error:
                self._report(exchange, error)

    def _tell_blocked(self, is_blocked: bool) -> None:
        exchange = self._exchange
        if exchange is not None:
            try:
                exchange.block(is_blocked)
            except Exception as error:
                self._fail(exchange, error)

    def _report(self, exchange: Exchange, error: Exception) -> None:
        self._loop.call_exception_handler({"message": f"handler failed on {exchange!r}", "exception": error})


_CODES = {
    408: b"request_timeout",
    413: b"body_too_large",
    415: b"body_compressed",
    417: b"expectation_failed",
    431: b"head_too_large",
    500: b"internal_error",
    501: b"not_implemented",
    503: b"too_many_connections",
    505: b"http_version_not_supported",
}


def _error_body(status: int, detail: str) -> bytes:
    """Return an error as OpenAI's API shapes them; `detail` is one of our own texts and needs no quoting."""
    kind = b"server_error" if status >= 500 else b"invalid_request_error"
    code = _CODES.get(status, b"bad_request")
    return b'{"error":{"message":"%b","type":"%b","param":null,"code":"%b"}}' % (detail.encode(), kind, code)


def _error_response(status: int, detail: str) -> bytes:
    body = _error_body(status, detail)
    return response_head(status, _JSON, b"content-length: %d\r\nconnection: close\r\n" % len(body)) + body
