"""A chunked request body (RFC 9112 section 7.1), read narrowly and within a bound. Pure."""

from __future__ import annotations

import re

from polyslo.wire.head import BadRequestError, parse_trailer
from polyslo.wire.limits import Limits

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_MAX_SIZE_LINE_BYTES = 256  # extensions mean nothing here, and are not a place to hide a stream in


class ChunkedBody:
    """The body so far."""

    def __init__(self, limits: Limits) -> None:
        self._max_body_bytes = limits.max_body_bytes
        self._trailer_bytes_left = limits.max_header_bytes
        self._body = bytearray()
        self._left_bytes: int | None = None  # of the present chunk; None before its size line
        self._in_trailer = False

    def read(self, buffer: bytearray) -> bytes | None:
        """Take what can be read off the front; return the body once it is whole. Raises `BadRequestError`."""
        position = 0
        while not self._in_trailer:
            step = self._read_size(buffer, position) if self._left_bytes is None else self._read_data(buffer, position)
            if step == 0:
                del buffer[:position]
                return None
            position += step
        del buffer[:position]
        return bytes(self._body) if self._read_trailer(buffer) else None

    def _read_size(self, buffer: bytearray, position: int) -> int:
        match = _SIZE_LINE.match(buffer, position, position + _MAX_SIZE_LINE_BYTES)
        if match is None:
            if len(buffer) - position >= _MAX_SIZE_LINE_BYTES or b"\n" in buffer[position:]:
                raise BadRequestError(400, "malformed chunk size")
            return 0
        size = int(match[1], 16)
        if len(self._body) + size > self._max_body_bytes:
            raise BadRequestError(413, f"a body may have at most {self._max_body_bytes} bytes; send less")
        if size == 0:
            self._in_trailer = True
        else:
            self._left_bytes = size
        return match.end() - position

    def _read_data(self, buffer: bytearray, position: int) -> int:
        assert self._left_bytes is not None
        if self._left_bytes:
            piece = buffer[position : position + self._left_bytes]
            self._body += piece
            self._left_bytes -= len(piece)
            return len(piece)
        line_end = buffer[position : position + 2]
        if not b"\r\n".startswith(line_end):
            raise BadRequestError(400, "a chunk is longer than its size")
        if len(line_end) < 2:
            return 0
        self._left_bytes = None
        return 2

    def _read_trailer(self, buffer: bytearray) -> bool:
        while (end := buffer.find(b"\n")) >= 0:
            line = bytes(buffer[: end + 1])
            del buffer[: end + 1]
            if line == b"\r\n":
                return True
            self._trailer_bytes_left -= len(line)
            if self._trailer_bytes_left < 0:
                break
            if not line.endswith(b"\r\n"):
                raise BadRequestError(400, "malformed trailer")
            parse_trailer(line[:-2])
        if len(buffer) > self._trailer_bytes_left:
            raise BadRequestError(431, "the trailer is too long")
        return False
