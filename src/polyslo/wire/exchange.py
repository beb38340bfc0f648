"""One request and its response, as the handler sees them.

A response is either whole (`respond`) or comes in pieces (`start`, `write`, …, `end`), the pieces as HTTP chunks, one
write to the transport each. Once the client has left, and after `abort`, everything further is ignored: a stream's
last pieces are then nobody's mistake. Calls in an order that can't be are `RuntimeError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from polyslo.wire.fields import Headers, response_head
from polyslo.wire.head import Request

_WAITING, _STREAMING, _ENDED, _CUT = range(4)  # a life goes upwards only; _CUT: by `abort` or by the client
_PHASES = ("nothing was sent yet", "its response has begun", "its response has ended", "it was cut")
_JOIN_BELOW_BYTES = 64 * 1024  # joining a head and a small body is cheaper than handing over two pieces
_BODILESS = (204, 304)

Handler = Callable[["Exchange"], None]


class Carrier(Protocol):
    """What an exchange needs of its connection."""

    transport: asyncio.Transport
    is_blocked: bool  # the transport holds more than its high water mark

    def keeps_alive(self, request: Request) -> bool:
        """Whether another request may follow this one."""

    def ended(self, keeps_alive: bool) -> None:
        """The response is complete."""

    def cut(self) -> None:
        """Close at once, mid-response."""

    def check_unsent(self) -> None:
        """Cut if too much is held for a client that takes it too slowly."""


class Exchange:
    """A request, whole, and the response to it.

    `path` has no query; header names are lower-cased; `peer` is the client's address without its port.
    `on_gone` is called once if the client leaves before the response has ended, `on_blocked(True)` when the client
    takes less than it is sent, `on_blocked(False)` when it has caught up.
    """

    __slots__ = (
        "_carrier", "_is_chunked", "_keeps_alive", "_phase", "_request", "_sends_body", "_write",
        "body", "headers", "method", "on_blocked", "on_gone", "path", "peer", "query",
    )  # fmt: skip

    def __init__(self, request: Request, peer: str, carrier: Carrier) -> None:
        self.method = request.method
        self.path = request.path
        self.query = request.query
        self.headers = request.headers
        self.body = request.body
        self.peer = peer
        self.on_gone: Callable[[], None] | None = None
        self.on_blocked: Callable[[bool], None] | None = None
        self._request = request
        self._carrier = carrier
        self._write = carrier.transport.write
        self._phase = _WAITING
        self._sends_body = self._is_chunked = self._keeps_alive = False

    def __repr__(self) -> str:
        return f"<Exchange {self.method.decode()} {self.path.decode()} from {self.peer}: {_PHASES[self._phase]}>"

    @property
    def is_over(self) -> bool:
        """Whether the response has ended or never will."""
        return self._phase >= _ENDED

    @property
    def takes_chunks(self) -> bool:
        """Whether pieces go on as chunks, so that one that is a chunk already can go on as it is."""
        return self._is_chunked and self._sends_body

    @property
    def clear_socket(self) -> int | None:
        """The client's socket, if what is sent to it past its connection now comes next: plain, nothing unsent."""
        transport = self._carrier.transport
        if self._phase != _STREAMING or not self.takes_chunks or transport.is_closing():
            return None
        if transport.get_write_buffer_size() or transport.get_extra_info("sslcontext"):
            return None
        return int(transport.get_extra_info("socket").fileno())

    @property
    def has_started(self) -> bool:
        """Whether a response head was sent."""
        return self._phase != _WAITING

    def header(self, name: bytes) -> bytes | None:
        """Return the first field of that (lower-case) name."""
        for found, value in self.headers:
            if found == name:
                return value
        return None

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response; `content-length` is added. Raises `ValueError` for headers unfit to send."""
        if self._is_cut(_WAITING):
            return
        if body and status in _BODILESS:
            raise ValueError(f"a {status} has no body, got {len(body)} bytes")
        length = b"" if status in _BODILESS else b"content-length: %d\r\n" % len(body)
        self._keeps_alive = self._carrier.keeps_alive(self._request)
        head = response_head(status, headers, length + self._connection_line())
        self._phase = _ENDED
        if self.method == b"HEAD" or not body:
            self._write(head)
        elif len(body) < _JOIN_BELOW_BYTES:
            self._write(head + body)
        else:
            self._carrier.transport.writelines((head, body))
        self._carrier.ended(self._keeps_alive)

    def start(self, status: int, headers: Headers) -> None:
        """Send the head of a response that comes in pieces. Raises `ValueError` for headers unfit to send."""
        if self._is_cut(_WAITING):
            return
        self._sends_body = self.method != b"HEAD" and status not in _BODILESS
        self._is_chunked = status not in _BODILESS and not self._request.is_http10
        # HTTP/1.0 knows no chunks: there the end of the connection is the end of the body.
        self._keeps_alive = self._carrier.keeps_alive(self._request) and (self._is_chunked or not self._sends_body)
        framing = b"transfer-encoding: chunked\r\n" if self._is_chunked else b""
        head = response_head(status, headers, framing + self._connection_line())
        self._phase = _STREAMING
        self._write(head)

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        if self._phase != _STREAMING and self._is_cut(_STREAMING):
            return
        if not data or not self._sends_body:
            return  # an empty chunk would end the body
        self.write_framed(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    def write_framed(self, data: bytes) -> None:
        """Send a piece of the body as it is on the wire: where it `takes_chunks`, a chunk."""
        if self._phase != _STREAMING and self._is_cut(_STREAMING):
            return
        self._write(data)
        if self._carrier.is_blocked:
            self._carrier.check_unsent()

    def end(self) -> None:
        """End a response that came in pieces."""
        if self._is_cut(_STREAMING):
            return
        self._phase = _ENDED
        if self._is_chunked and self._sends_body:
            self._write(b"0\r\n\r\n")
        self._carrier.ended(self._keeps_alive)

    def abort(self) -> None:
        """Close the connection mid-response, so that the client sees an error and not a short body."""
        if self._phase < _ENDED:
            self._phase = _CUT
            self._carrier.cut()

    def leave(self) -> None:
        """Note that the client has left; for the connection."""
        if self._phase < _ENDED:
            self._phase = _CUT
            if self.on_gone is not None:
                self.on_gone()

    def block(self, is_blocked: bool) -> None:
        """Pass on that the client takes less than it is sent, or has caught up; for the connection."""
        if self._phase < _ENDED and self.on_blocked is not None:
            self.on_blocked(is_blocked)

    def _is_cut(self, expected: int) -> bool:
        if self._phase not in (expected, _CUT):
            raise RuntimeError(f"{self!r}: can't do this now; the order is respond, or start, write, …, end")
        return self._phase == _CUT

    def _connection_line(self) -> bytes:
        if not self._keeps_alive:
            return b"connection: close\r\n"
        return b"connection: keep-alive\r\n" if self._request.is_http10 else b""
