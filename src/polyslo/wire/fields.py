"""Header fields as bytes: what we agree to send, and which fields belong to a connection and not to a message.

RFC 9110 section 5 and RFC 9112. Whoever writes a head writes it through here: a name or value that could end a
line early (response splitting, request smuggling) is a `ValueError` before anything is sent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus

Headers = Sequence[tuple[bytes, bytes]]

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_BLOCK = re.compile(rb"(?:" + TOKEN + rb"+: [\t\x20-\x7e\x80-\xff]*\r\n)*")
_METHOD = re.compile(TOKEN + rb"{1,32}")
_TARGET = re.compile(rb"/[!-~]*")
_STATUS_LINES = {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}

# Framing and the connection's life are decided in this room, so nobody else may name them.
_OURS = frozenset((b"connection", b"content-length", b"keep-alive", b"transfer-encoding", b"upgrade"))
OURS_IN_REQUESTS = _OURS | {b"expect", b"host"}
_HOP_BY_HOP = OURS_IN_REQUESTS | {
    b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
}  # fmt: skip


def end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the fields that a proxy passes on: none of the connection's own, nor those that it lists as such.

    Takes and returns lower-cased names. The result may be given to `Exchange.start` and to `Origin.send`.
    """
    dropped = _HOP_BY_HOP
    for name, value in headers:
        if name == b"connection":
            dropped = dropped | {token.strip().lower() for token in value.split(b",")}
    return [field for field in headers if field[0] not in dropped]


def response_head(status: int, headers: Headers, framing: bytes) -> bytes:
    """Return a response's head, with `framing` (whole lines) after the fields; raises `ValueError` if unfit to send."""
    if not 200 <= status <= 599:
        raise ValueError(f"status must be from 200 to 599, got {status}; interim responses are the server's own")
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return b"%b%b%b\r\n" % (line, _block(headers, _OURS), framing)


def request_head(method: bytes, target: bytes, host: bytes, headers: Headers, num_body_bytes: int) -> bytes:
    """Return a request's head in origin form; raises `ValueError` if unfit to send."""
    if not _METHOD.fullmatch(method):
        raise ValueError(f"method must be a token, got {method!r}")
    if not _TARGET.fullmatch(target):
        raise ValueError(f"target must begin with / and have neither spaces nor controls, got {target!r}")
    framing = b"" if not num_body_bytes and method in (b"GET", b"HEAD") else b"content-length: %d\r\n" % num_body_bytes
    block = _block(headers, OURS_IN_REQUESTS)
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n%b%b\r\n" % (method, target, host, block, framing)


def _block(headers: Headers, ours: frozenset[bytes]) -> bytes:
    block = b"".join([b"%b: %b\r\n" % field for field in headers])
    # A line break inside a value can look like one more field, so the lines are counted too.
    if not _BLOCK.fullmatch(block) or block.count(b"\n") != len(headers):
        raise ValueError(f"header names must be tokens, values free of CR, LF and controls, got {list(headers)!r}")
    for name, _ in headers:
        if name.lower() in ours:
            raise ValueError(f"header {name.decode()}: is set by the connection itself; leave it out")
    return block
