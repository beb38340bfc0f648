"""A connection to an origin: writes one request, reads its response, then the next.

llhttp (through httptools) takes the bytes apart and refuses what is malformed; ours are the bounds, the times, the
end of a response that ends with its connection, and that no byte is ever taken for a response nobody asked for.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import httptools

from polyslo.wire.call import Call, Failure, FailureKind, report
from polyslo.wire.deadline import Deadline

MAX_HEAD_BYTES = 64 * 1024  # interim responses and trailers included
_STALE_S = 1.0  # a kept connection that the peer had closed before says so within a round trip
_BODILESS = (204, 304)


class Keeper(Protocol):
    """What a connection needs of its origin."""

    def keep(self, connection: OriginConnection) -> None:
        """Take back a connection that can carry another call."""

    def forget(self, connection: OriginConnection) -> None:
        """Take note that it is gone."""

    def redial(self, call: Call) -> None:
        """Carry a call on a fresh connection."""


class OriginConnection(asyncio.Protocol):
    """A connection and the call that it carries, if any."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._call: Call | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._num_carried = 0
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready to carry."""
        self.transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._deadline = Deadline(self._loop, self._on_due)

    def carry(self, call: Call) -> None:
        """Write the call's request and read its response."""
        self._call = call
        call.bearer = self
        self._num_carried += 1
        self._headers: list[tuple[bytes, bytes]] = []
        self._num_head_bytes = 0
        self._pieces: list[bytes] = []  # of the body, from the bytes that are being parsed
        self._status = 0
        self._malformation = ""
        self._heard = self._started = self._is_complete = self._ends_with_connection = self._is_reusable = False
        self._sent_s = self._loop.time()
        if self.is_lost:
            self._lose("the connection closed as soon as it was open")
            return
        self.transport.writelines([part for part in call.request if part])
        self._deadline.set(call.head_timeout_s)
        if call.is_paused:
            self.set_reading(False)

    def rest(self, timeout_s: float) -> None:
        """Wait for another call, but not longer than `timeout_s`."""
        self._deadline.set(timeout_s)

    def drop(self) -> None:
        """Close at once and forget the call."""
        self._call = None
        self._deadline.stop()
        self.transport.abort()

    def close(self) -> None:
        """Close at once; a call under way fails."""
        if self._call is None:
            self.drop()
        else:
            self._fail("reset", "the origin was closed here")

    def set_reading(self, reads: bool) -> None:
        """Read on, or leave the bytes to the peer's window; time stands still meanwhile."""
        if self.is_lost:
            return
        if reads:
            self.transport.resume_reading()
            call = self._call
            if call is not None:
                self._deadline.set(call.idle_timeout_s if self._started else call.head_timeout_s)
        else:
            self.transport.pause_reading()
            self._deadline.clear()

    def data_received(self, data: bytes) -> None:
        """Take bytes of the response; the parser's callbacks only note what they hold."""
        call = self._call
        if call is None:
            self.drop()  # nobody asked
            return
        self._heard = True
        if self._started:
            self._deadline.set(call.idle_timeout_s)
        else:
            self._num_head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._malformation = str(error)
        self._deliver(call)

    def eof_received(self) -> None:
        """Take the end of the bytes; the transport closes by itself."""
        self._lose("closed by the peer")

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        self.is_lost = True
        self._ends_with_connection = self._call is not None and self._ends_with_connection and exc is None
        self._lose(f"{exc}" if exc else "closed by the peer")
        self._deadline.stop()
        self._keeper.forget(self)

    def on_message_begin(self) -> None:
        """Note a second response to one request."""
        if self._is_complete:
            self._malformation = "more than was asked for"

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a field of the head; trailers are dropped."""
        if not self._status:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Note the head, unless it is an interim one or nobody's."""
        status = int(self._parser.get_status_code())
        if status < 200:
            self._headers = []
        elif not self._status:
            self._status = status

    def on_body(self, data: bytes) -> None:
        """Note a piece of the body, unless it is nobody's."""
        if not self._is_complete:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        """Note the end of the response."""
        if self._status and not self._is_complete:
            self._is_complete = True
            self._is_reusable = bool(self._parser.should_keep_alive())

    def _deliver(self, call: Call) -> None:
        """Pass on what the parser found. The sink may abort the call at any step, so each looks whether it did."""
        try:
            if not self._started:
                self._deliver_head(call)
            pieces = self._pieces
            if pieces and self._started and self._call is call:
                # Pieces that came together go on together: a proxy that has fallen behind then writes less often.
                data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                self._pieces = []
                call.sink.on_data(data)
        except Exception as error:
            report(call.sink, error)
            self._fail("reset", "the sink failed")
        if self._call is not call:
            return
        if self._is_complete and self._started:
            self._finish()
        elif self._malformation:
            self._fail("malformed", self._malformation)

    def _deliver_head(self, call: Call) -> None:
        if self._num_head_bytes > MAX_HEAD_BYTES and self._head_is_too_long():
            self._malformation = f"its head has more than {MAX_HEAD_BYTES} bytes"
        elif self._status:
            headers = self._headers
            is_bodiless = call.is_head or self._status in _BODILESS
            if not is_bodiless and not self._settle_framing(headers):
                return
            self._started = True
            self._deadline.set(call.idle_timeout_s)
            if call.is_head:
                # The parser waits for a body that is not sent, so the connection is spent.
                self._is_complete, self._is_reusable, self._pieces = True, False, []
            call.sink.on_head(self._status, headers)

    def _head_is_too_long(self) -> bool:
        """Whether the fields are, or there is no end of them; a body may have come along with the head."""
        return not self._status or sum(len(name) + len(value) + 4 for name, value in self._headers) > MAX_HEAD_BYTES

    def _settle_framing(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Find out whether the body ends with the connection; return False if it can't be told."""
        codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
        if codings and codings != [b"chunked"]:
            self._malformation = f"transfer-encoding must be chunked, got {b', '.join(codings)!r}"
            return False
        self._ends_with_connection = not codings and all(name != b"content-length" for name, _ in headers)
        return True

    def _on_due(self) -> None:
        call = self._call
        if call is None:
            self.drop()  # rested long enough
        elif self._started:
            self._fail("timeout", f"no byte for {call.idle_timeout_s:g} s in mid-response")
        else:
            self._fail("timeout", f"no response head within {call.head_timeout_s:g} s")

    def _finish(self) -> None:
        """End the call, and give the connection back first: its end may send the next request."""
        call, self._call = self._call, None
        if call is None:
            return
        call.bearer = None
        if (
            not self._is_reusable
            or self._malformation
            or self.transport.is_closing()
            or self.transport.get_write_buffer_size()
        ):
            self.drop()
        else:
            if call.is_paused:
                self.transport.resume_reading()
            self._keeper.keep(self)
        call.end()

    def _fail(self, kind: FailureKind, detail: str) -> None:
        call, self._call = self._call, None
        self._is_complete = False
        if call is not None:
            call.bearer = None
            self.drop()
            call.fail(Failure(kind, detail, self._started))

    def _lose(self, detail: str) -> None:
        """End the call as the end of its connection ends it."""
        call = self._call
        self._keeper.forget(self)
        if call is None:
            return
        is_stale = self._num_carried > 1 and not self._heard and self._loop.time() - self._sent_s < _STALE_S
        if self._ends_with_connection:
            self._is_complete = True
            self._finish()
        elif is_stale:
            self._call = call.bearer = None
            self._keeper.redial(call)
        else:
            self._fail("reset", detail)
