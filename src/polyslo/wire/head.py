"""The head of a request: RFC 9112 read narrowly, because whatever two readers read differently can be smuggled.

Refused, though some servers let it pass: line ends other than CRLF, folded lines, whitespace before a colon,
more than one Content-Length (equal ones too), Content-Length beside Transfer-Encoding, any transfer coding but
`chunked`, no or several Hosts. Pure; the bytes come from `RequestReader`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from polyslo.wire.fields import TOKEN
from polyslo.wire.limits import Limits

# No two neighbours below can match the same byte, so a match that fails has not tried the line more than once.
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb"{1,32}) ([!-\"$-~]+) HTTP/([0-9])\.([0-9])")
_FIELD = re.compile(rb"(" + TOKEN + rb"+):([\t\x20-\x7e\x80-\xff]*)")
_ABSOLUTE = re.compile(rb"https?://[^/?]+", re.IGNORECASE)
_HOST = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]]*")
_LENGTH = re.compile(rb"[0-9]{1,15}")


class BadRequestError(Exception):
    """A request that can't be served: the status to answer with, and why; the connection is closed after it."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(slots=True)
class Request:
    """A request as read; `num_body_bytes` is None while a chunked body's length is unknown."""

    method: bytes
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]  # names lower-cased
    is_http10: bool
    keeps_alive: bool
    expects_continue: bool
    num_body_bytes: int | None
    body: bytes = b""


def parse_head(head: bytes, limits: Limits) -> Request:
    """Read a head without its last empty line; raises `BadRequestError`."""
    lines = head.split(b"\r\n")
    if len(lines) - 1 > limits.max_headers:
        raise BadRequestError(431, f"at most {limits.max_headers} header fields are allowed, got {len(lines) - 1}")
    method, target, is_http10 = _request_line(lines[0])
    headers = [_field(line) for line in lines[1:]]
    path, _, query = _origin_form(target, method).partition(b"?")
    _check_host(headers, is_http10)
    _check_coding(headers)
    return Request(
        method=method,
        path=path,
        query=query,
        headers=headers,
        is_http10=is_http10,
        keeps_alive=_keeps_alive(headers, is_http10),
        expects_continue=_expects_continue(headers, is_http10),
        num_body_bytes=_body_length(headers, is_http10, limits.max_body_bytes),
    )


def parse_trailer(line: bytes) -> None:
    """Check a trailer field; raises `BadRequestError`. Nobody here has a use for one."""
    _field(line)


def _request_line(line: bytes) -> tuple[bytes, bytes, bool]:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadRequestError(400, "malformed request line; it must be METHOD PATH HTTP/1.1")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise BadRequestError(
            505, f"only HTTP/1.1 and HTTP/1.0 are spoken here, got HTTP/{major.decode()}.{minor.decode()}"
        )
    return method, target, minor == b"0"


def _origin_form(target: bytes, method: bytes) -> bytes:
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target
    absolute = _ABSOLUTE.match(target)  # clients that take us for a proxy; RFC 9112 3.2.2 has servers accept it
    if absolute is None:
        raise BadRequestError(400, "the request target must be a path or an http URL")
    rest = target[absolute.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


def _field(line: bytes) -> tuple[bytes, bytes]:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise BadRequestError(
            400, "malformed header field; it must be NAME: VALUE, without folding or control characters"
        )
    name, value = match.groups()
    return name.lower(), value.strip(b" \t")


def _values(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name == wanted]


def _check_host(headers: list[tuple[bytes, bytes]], is_http10: bool) -> None:
    hosts = _values(headers, b"host")
    if len(hosts) > 1 or not (hosts or is_http10):
        raise BadRequestError(400, f"exactly one Host field is required, got {len(hosts)}")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise BadRequestError(400, "malformed Host; it must be a host and perhaps a port")


def _check_coding(headers: list[tuple[bytes, bytes]]) -> None:
    for coding in _values(headers, b"content-encoding"):
        if coding.lower() != b"identity":
            raise BadRequestError(415, "request bodies must not be compressed; send it as it is")


def _keeps_alive(headers: list[tuple[bytes, bytes]], is_http10: bool) -> bool:
    tokens = {token.strip().lower() for value in _values(headers, b"connection") for token in value.split(b",")}
    return b"close" not in tokens and (not is_http10 or b"keep-alive" in tokens)


def _expects_continue(headers: list[tuple[bytes, bytes]], is_http10: bool) -> bool:
    expected = _values(headers, b"expect")
    if any(value.lower() != b"100-continue" for value in expected):
        raise BadRequestError(417, "the only expectation that can be met is 100-continue")
    return bool(expected) and not is_http10


def _body_length(headers: list[tuple[bytes, bytes]], is_http10: bool, max_body_bytes: int) -> int | None:
    """Return how many bytes follow; None when they come in chunks."""
    lengths, codings = _values(headers, b"content-length"), _values(headers, b"transfer-encoding")
    if codings:
        if lengths:
            raise BadRequestError(400, "Content-Length and Transfer-Encoding exclude each other; send one of them")
        if is_http10:
            raise BadRequestError(400, "HTTP/1.0 has no Transfer-Encoding")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise BadRequestError(501, "the only transfer coding that is understood is chunked")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise BadRequestError(400, "malformed or repeated Content-Length; send one decimal number")
    if int(lengths[0]) > max_body_bytes:
        raise BadRequestError(413, f"a body may have at most {max_body_bytes} bytes, got {int(lengths[0])}; send less")
    return int(lengths[0])
