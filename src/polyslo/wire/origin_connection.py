"""A connection to an origin: writes one request, reads its response, then the next.

llhttp (through httptools) takes the bytes apart and refuses what is malformed; ours are the bounds, the times, the
end of a response that ends with its connection, and that no byte is ever taken for a response nobody asked for.
Between two chunks llhttp stands still, so a piece that is one whole chunk, as engines write their tokens, passes it by.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol, cast

import httptools

from polyslo.wire.call import Borrower, Call, Failure, FailureKind, report
from polyslo.wire.deadline import Deadline

_MAX_FRAMING_BYTES = 64 * 1024  # of heads, chunk sizes or trailers in a row
_STALE_S = 1.0  # a kept connection that the peer had closed before says so within a round trip
_BODILESS = (204, 304)
_MOST_SIGHT_BYTES = 4096  # a chunk shorter than that is recognized at sight
_TURN_BYTES = 128 * 1024  # after which other connections have their turn; libuv reads on for up to 8 MB


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
        # Has an entry while the parser stands between two chunks. A list, because the parser's calls for every chunk
        # are then C calling C.
        self._between: list[None] = []
        self.on_chunk_header = self._between.clear
        self.on_chunk_complete = partial(self._between.append, None)
        self._parser = httptools.HttpResponseParser(self)
        self._num_carried = 0
        self._is_lost = False
        self._borrower: Borrower | None = None  # reads in its place

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
        self._num_framing_bytes = 0  # since the last piece of a body
        self._pieces: list[bytes] = []  # of the body, from the bytes that are being parsed
        self._status = 0
        self._malformation = ""
        self._between.clear()
        self._heard = self._started = self._is_complete = self._ends_with_connection = self._is_reusable = False
        self._sent_s = self._loop.time()
        if not self.is_usable:
            self._lose("the connection closed as soon as it was open")
            return
        self.transport.writelines([part for part in call.request if part])
        self._deadline.set(call.head_timeout_s)
        if call.is_paused:
            self.set_reading(False)

    @property
    def is_usable(self) -> bool:
        """Whether it is open."""
        return not self._is_lost and not self.transport.is_closing()

    def rest(self, timeout_s: float) -> None:
        """Wait for another call, but not longer than `timeout_s`."""
        self._deadline.set(timeout_s)

    def drop(self) -> None:
        """Close at once and forget the call."""
        self._recall()
        self._keeper.forget(self)  # now: until the loop's next turn it would still look idle
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
        if self._is_lost:
            return
        self._recall()
        if reads:
            self.transport.resume_reading()
            call = self._call
            if call is not None:
                self._deadline.set(call.idle_timeout_s if self._started else call.head_timeout_s)
        else:
            self.transport.pause_reading()
            self._deadline.clear()

    def lend(self, borrower: Borrower) -> int | None:
        """See `Call.lend`."""
        if self._borrower is not None or not (self._between and self._started and self.is_usable):
            return None
        if self.transport.get_extra_info("sslcontext"):
            return None
        self.transport.pause_reading()
        self._borrower = borrower
        return int(self.transport.get_extra_info("socket").fileno())

    def take_back(self, data: bytes) -> None:
        """See `Call.take_back`."""
        self._borrower = None
        call = self._call
        if call is None or not self.is_usable:
            return
        if not call.is_paused:
            self._deadline.set(call.idle_timeout_s)
            self.transport.resume_reading()
        if data:
            self.data_received(data)

    def data_received(self, data: bytes) -> None:
        """Take bytes of the response; the parser's callbacks only note what they hold."""
        call = self._call
        if call is None:
            self.drop()  # nobody asked
            return
        self._heard = True
        if self._started:
            self._deadline.set(call.idle_timeout_s)
        start = _start_of_only_chunk(data) if self._between else 0
        if start:
            self._hand_over(call, data[start:-2], data)
        else:
            self._parse(data)
            self._deliver(call)
        if len(data) >= _TURN_BYTES:
            self._wait_a_turn()

    def eof_received(self) -> None:
        """Take the end of the bytes; the transport closes by itself."""
        self._lose("closed by the peer")

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        self._is_lost = True
        self._recall()
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

    def _parse(self, data: bytes) -> None:
        self._between.clear()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._malformation = str(error)
        # Whatever else ends with CRLF (a size line, a trailer) has told of itself; half a size line does not.
        if self._malformation or data[-2:] != b"\r\n":
            self._between.clear()
        if self._pieces:
            self._num_framing_bytes = 0
        else:
            self._bound_framing(len(data))

    def _hand_over(self, call: Call, payload: bytes, chunk: bytes) -> None:
        """Pass on a chunk that the parser was not shown; its response goes on."""
        self._num_framing_bytes = 0
        try:
            if call.on_chunk is None:
                call.sink.on_data(payload)
            else:
                call.on_chunk(payload, chunk)
        except Exception as error:
            report(call.sink, error)
            self._fail("reset", "the sink failed")

    def _wait_a_turn(self) -> None:
        """Let others be read: one that is always ready would keep them waiting, health checks among them."""
        call = self._call
        if self.is_usable and not (call is not None and call.is_paused):
            self.transport.pause_reading()
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        call = self._call
        if self.is_usable and self._borrower is None and not (call is not None and call.is_paused):
            self.transport.resume_reading()

    def _recall(self) -> None:
        borrower, self._borrower = self._borrower, None
        if borrower is not None:
            borrower.stop()

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
        headers = self._headers
        if not self._status or not self._settle_framing(call, headers):
            return
        self._started = True
        self._deadline.set(call.idle_timeout_s)
        if call.is_head:
            # The parser waits for a body that is not sent, so the connection is spent.
            self._is_complete, self._is_reusable, self._pieces = True, False, []
        call.sink.on_head(self._status, headers)

    def _bound_framing(self, num_bytes: int) -> None:
        self._num_framing_bytes += num_bytes
        if self._num_framing_bytes > _MAX_FRAMING_BYTES and not self._is_complete:
            self._malformation = f"more than {_MAX_FRAMING_BYTES} bytes and no body"

    def _settle_framing(self, call: Call, headers: list[tuple[bytes, bytes]]) -> bool:
        """Find out what ends the body; return False, and note why, if the head is worse than llhttp sees."""
        codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
        is_bodiless = call.is_head or self._status in _BODILESS
        is_measured = bool(codings) or any(name == b"content-length" for name, _ in headers)
        self._ends_with_connection = not is_bodiless and not is_measured
        if sum(len(name) + len(value) + 4 for name, value in headers) > _MAX_FRAMING_BYTES:
            self._malformation = f"its head has more than {_MAX_FRAMING_BYTES} bytes"
        elif codings and codings != [b"chunked"] and not is_bodiless:
            self._malformation = f"transfer-encoding must be chunked, got {b', '.join(codings)!r}"
        else:
            return True
        return False

    def _on_due(self) -> None:
        call = self._call
        if call is None:
            self.drop()  # rested long enough
        elif self._borrower is not None and (left_s := self._left_s(call, self._borrower)) > 0:
            self._deadline.set(left_s)
        elif self._started:
            self._fail("timeout", f"no byte for {call.idle_timeout_s:g} s in mid-response")
        else:
            self._fail("timeout", f"no response head within {call.head_timeout_s:g} s")

    def _left_s(self, call: Call, borrower: Borrower) -> float:
        """Return how much longer the origin may be silent, by whoever reads in this connection's place."""
        return borrower.heard_s + call.idle_timeout_s - self._loop.time()

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


def _size_lines() -> list[bytes]:
    """Return by their length in bytes how whole chunks begin; what can't begin one where there is none so long."""
    sizes = {len(b"%x\r\n" % size) + size + 2: size for size in range(1, _MOST_SIGHT_BYTES)}
    return [b"%x\r\n" % sizes[num] if num in sizes else b"-" for num in range(_MOST_SIGHT_BYTES)]


_SIZE_LINES = _size_lines()


def _start_of_only_chunk(data: bytes) -> int:
    """Return where the payload begins if these bytes are a chunk, whole and with a payload; 0 if not surely so."""
    num_bytes = len(data)
    if num_bytes >= _MOST_SIGHT_BYTES:
        return 0
    line = _SIZE_LINES[num_bytes]
    return len(line) if data.startswith(line) and data.endswith(b"\r\n") else 0
