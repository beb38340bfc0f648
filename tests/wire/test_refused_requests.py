"""What a server must not let pass, sent over raw sockets: each is answered once and the connection closed."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from polyslo.wire.server import Exchange, Limits
from wire.raw import answer_to, serving, visiting

CODES = {
    400: "bad_request",
    413: "body_too_large",
    415: "body_compressed",
    417: "expectation_failed",
    431: "head_too_large",
    501: "not_implemented",
    505: "http_version_not_supported",
}
POST = b"POST /v1 HTTP/1.1\r\nhost: a\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"

MALFORMED = {
    "both lengths": POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, the other way round": POST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "differing lengths": POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "repeated lengths": POST + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "a list of lengths": POST + b"content-length: 5, 5\r\n\r\nhello",
    "a signed length": POST + b"content-length: +5\r\n\r\nhello",
    "a negative length": POST + b"content-length: -5\r\n\r\nhello",
    "a hexadecimal length": POST + b"content-length: 0x5\r\n\r\nhello",
    "an empty length": POST + b"content-length:\r\n\r\nhello",
    "a length in other digits": POST + "content-length: \u0665\r\n\r\nhello".encode(),
    "a length beyond all": POST + b"content-length: " + b"9" * 30 + b"\r\n\r\n",
    "transfer-encoding in HTTP/1.0": b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a folded line": POST + b"a: b\r\n c\r\n\r\n",
    "a folded first line": b"GET / HTTP/1.1\r\n host: a\r\n\r\n",
    "bare LF all through": b"GET / HTTP/1.1\nhost: a\n\n",
    "bare LF inside": b"GET / HTTP/1.1\r\nhost: a\nb: c\r\n\r\n",
    "bare CR inside": b"GET / HTTP/1.1\r\nhost: a\rb: c\r\n\r\n",
    "a head that ends with LF": b"GET / HTTP/1.1\r\nhost: a\r\n\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nhost: a\r\nb: c\x00d\r\n\r\n",
    "a control in a value": b"GET / HTTP/1.1\r\nhost: a\r\nb: c\x07d\r\n\r\n",
    "space before the colon": POST + b"content-length : 5\r\n\r\nhello",
    "tab before the colon": POST + b"transfer-encoding\t: chunked\r\n\r\n0\r\n\r\n",
    "no colon": POST + b"content-length 5\r\n\r\nhello",
    "an empty name": POST + b": 5\r\n\r\n",
    "a name that is no token": POST + b"a(b): 5\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
    "a host with a path": b"GET / HTTP/1.1\r\nhost: a/b\r\n\r\n",
    "a request line of two words": b"GET /\r\nhost: a\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
    "a tab for a space": b"GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
    "raw bytes in the target": b"GET /\xc3\xa9 HTTP/1.1\r\nhost: a\r\n\r\n",
    "a fragment": b"GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n",
    "a relative target": b"GET a HTTP/1.1\r\nhost: a\r\n\r\n",
    "authority form": b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
    "a lower-case protocol": b"GET / http/1.1\r\nhost: a\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40) + b"\r\n\r\n",
    "two empty lines first": b"\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "a chunk size in other digits": CHUNKED + b"g\r\nhello\r\n0\r\n\r\n",
    "a signed chunk size": CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n",
    "a prefixed chunk size": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "an empty chunk size": CHUNKED + b"\r\nhello\r\n0\r\n\r\n",
    "a space after the chunk size": CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n",
    "a space before the chunk size": CHUNKED + b" 5\r\nhello\r\n0\r\n\r\n",
    "a chunk size beyond all": CHUNKED + b"f" * 17 + b"\r\nhello\r\n0\r\n\r\n",
    "a chunk size that ends with LF": CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "a chunk that ends with LF": CHUNKED + b"5\r\nhello\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n",
    "a LF inside an extension": CHUNKED + b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "an endless extension": CHUNKED + b"5;" + b"a" * 300,
    "a trailer that ends with LF": CHUNKED + b"5\r\nhello\r\n0\r\na: b\n\r\n",
    "a trailer that is no field": CHUNKED + b"5\r\nhello\r\n0\r\nGET / HTTP/1.1\r\n\r\n",
}  # fmt: skip

UNSERVED = {
    "another transfer coding": (POST + b"transfer-encoding: gzip\r\n\r\n", 501),
    "chunked and another": (POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "chunked twice": (POST + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 501),
    "chunked, quoted": (POST + b'transfer-encoding: "chunked"\r\n\r\n0\r\n\r\n', 501),
    "chunked with a vertical tab": (POST + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "a compressed body": (POST + b"content-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello", 415),
    "another expectation": (POST + b"expect: 200-ok\r\ncontent-length: 5\r\n\r\nhello", 417),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
}


def assert_refused(answer: bytes, status: int) -> None:
    """Check that there is one answer, of this status, and that it says that it is the last."""
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert len(re.findall(rb"HTTP/1\.1 [0-9]", answer)) == 1
    assert b"\r\nconnection: close\r\n" in answer
    error = json.loads(answer[answer.index(b"\r\n\r\n") + 4 :])["error"]
    kind = "server_error" if status >= 500 else "invalid_request_error"
    assert (error["type"], error["param"], error["code"]) == (kind, None, CODES[status])
    assert error["message"]


def unreachable(exchange: Exchange) -> None:
    """Fail: no handler may see what was refused."""
    raise AssertionError(f"reached the handler: {exchange!r}")


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_malformed_is_400(run, data):
    """A request that two readers could read differently reaches no handler, and nothing after it is read."""
    assert_refused(run(answer_to(data + POST + b"content-length: 0\r\n\r\n", unreachable)), 400)


@pytest.mark.parametrize(("data", "status"), UNSERVED.values(), ids=UNSERVED.keys())
def test_what_is_not_served_says_so(run, data, status):
    """Codings, expectations and versions that are not understood have their own statuses."""
    assert_refused(run(answer_to(data + POST + b"content-length: 0\r\n\r\n", unreachable)), status)


def test_an_unfinished_head_with_bare_line_ends_is_refused_at_once(run):
    """What will never be a head is not waited for."""
    assert_refused(run(answer_to(b"GET / HTTP/1.1\nhost: a\n", unreachable)), 400)


def test_an_oversize_head_is_431(run):
    """A head over the bound is refused whether or not it ends."""
    limits = Limits(max_header_bytes=1000)
    ended = b"GET / HTTP/1.1\r\nhost: a\r\nb: " + b"c" * 1000 + b"\r\n\r\n"
    assert_refused(run(answer_to(ended, unreachable, limits)), 431)
    assert_refused(run(answer_to(b"GET /" + b"c" * 1000, unreachable, limits)), 431)


def test_too_many_fields_are_431(run):
    """The number of fields is bounded too."""
    head = b"GET / HTTP/1.1\r\nhost: a\r\n" + b"b: c\r\n" * 100 + b"\r\n"
    assert_refused(run(answer_to(head, unreachable, Limits(max_headers=100))), 431)


def test_an_oversize_body_is_413(run):
    """A body over the bound is refused before it is read, and a chunked one by the size of its chunks."""
    limits = Limits(max_body_bytes=1000)
    declared = POST + b"content-length: 1001\r\nexpect: 100-continue\r\n\r\n"
    assert_refused(run(answer_to(declared, unreachable, limits)), 413)
    assert_refused(run(answer_to(CHUNKED + b"3e9\r\n", unreachable, limits)), 413)
    chunks = b"1f4\r\n" + b"x" * 500 + b"\r\n"
    assert_refused(run(answer_to(CHUNKED + chunks * 2 + b"1\r\n", unreachable, limits)), 413)


def test_a_refusal_reaches_a_client_that_goes_on_sending(run):
    """The connection is closed only after the client has had its answer, although it has sent much more."""

    async def scenario() -> bytes:
        async with serving(unreachable, Limits(max_body_bytes=1000)) as listener, visiting(listener.port) as peer:
            peer.send(POST + b"content-length: 4000000\r\n\r\n")
            for _ in range(40):
                peer.send(b"x" * 100_000)
                await asyncio.sleep(0)
            return await peer.rest()

    assert_refused(run(scenario()), 413)


def test_an_endless_trailer_is_431(run):
    """The trailer is bounded like a head."""
    data = CHUNKED + b"0\r\n" + b"a: b\r\n" * 200
    assert_refused(run(answer_to(data, unreachable, Limits(max_header_bytes=1000))), 431)
    data = CHUNKED + b"0\r\na: " + b"b" * 1000
    assert_refused(run(answer_to(data, unreachable, Limits(max_header_bytes=1000))), 431)


def test_what_came_before_is_answered_first(run):
    """A malformed request behind a good one does not spoil the good one's answer."""
    answer = run(answer_to(POST + b"content-length: 5\r\n\r\nhello" + b"nonsense\r\n\r\n"))
    assert answer.index(b"POST /v1? hello") < answer.index(b"HTTP/1.1 400 ")


def test_a_smuggled_request_is_body(run):
    """What stands inside a counted body is never taken for a request."""
    inner = b"GET /secret HTTP/1.1\r\nhost: a\r\n\r\n"
    answer = run(answer_to(POST + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(inner) + inner))
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert answer.endswith(b"POST /v1? " + inner)
