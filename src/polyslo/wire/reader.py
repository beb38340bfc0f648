"""Requests out of a connection's bytes, one at a time: what follows a request waits until it is asked for. Pure."""

from __future__ import annotations

import re

from polyslo.wire.chunks import ChunkedBody
from polyslo.wire.head import BadRequestError, Request, parse_head
from polyslo.wire.limits import Limits

_BAD_LINE_END = re.compile(rb"(?<!\r)\n|\r[^\n]|\x00")


class RequestReader:
    """The bytes that no request has claimed yet, and the request that is being read."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._num_searched = 0  # bytes of the buffer known not to end a head, so that dripping stays linear
        self._request: Request | None = None  # its head is read, its body is not
        self._chunks: ChunkedBody | None = None

    @property
    def num_buffered(self) -> int:
        """Bytes that wait to be read."""
        return len(self._buffer)

    @property
    def awaits_body(self) -> bool:
        """Whether a head was read whose body has not come."""
        return self._request is not None

    def feed(self, data: bytes) -> None:
        """Add bytes as they came."""
        self._buffer += data

    def next_request(self) -> Request | None:
        """Return the next whole request, None until there is one; raises `BadRequestError`, and then reads no more."""
        request = self._request or self._read_head()
        if request is None:
            return None
        self._request = request
        body = self._chunks.read(self._buffer) if self._chunks else self._read_counted(request.num_body_bytes or 0)
        if body is None:
            return None
        request.body = body
        self._request = self._chunks = None
        return request

    def claim_expectation(self) -> bool:
        """Whether the client waits to be told `100 Continue`; true once a request."""
        request = self._request
        if request is None or not request.expects_continue:
            return False
        request.expects_continue = False
        return not self._buffer  # RFC 9110 10.1.1: unneeded when the body is coming already

    def _read_head(self) -> Request | None:
        buffer = self._buffer
        if not self._num_searched and buffer.startswith(b"\r\n"):
            del buffer[:2]  # RFC 9112 2.2: old clients end a body with a line end that it does not have
        end = buffer.find(b"\r\n\r\n", max(0, self._num_searched - 3))
        if (end if end >= 0 else len(buffer)) > self._limits.max_header_bytes:
            raise BadRequestError(
                431, f"the head may have at most {self._limits.max_header_bytes} bytes; send fewer or shorter fields"
            )
        if end < 0:
            if _BAD_LINE_END.search(buffer, max(0, self._num_searched - 1)):
                raise BadRequestError(400, "lines must end with CRLF")
            self._num_searched = len(buffer)
            return None
        head = bytes(buffer[:end])
        del buffer[: end + 4]
        self._num_searched = 0
        request = parse_head(head, self._limits)
        if request.num_body_bytes is None:
            self._chunks = ChunkedBody(self._limits)
        return request

    def _read_counted(self, num_bytes: int) -> bytes | None:
        if len(self._buffer) < num_bytes:
            return None
        body = bytes(self._buffer[:num_bytes])
        del self._buffer[:num_bytes]
        return body
