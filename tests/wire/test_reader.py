"""Requests out of bytes, without a socket."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from polyslo.wire.head import BadRequestError
from polyslo.wire.limits import Limits
from polyslo.wire.reader import RequestReader

NOISE = [b"GET ", b"/", b" HTTP/1.1", b"\r\n", b"\r", b"\n", b"host", b":", b" ", b"a", b"\0", b"\xff",
         b"content-length", b"transfer-encoding", b"chunked", b"5"]  # fmt: skip
CUTS = st.lists(st.integers(0, 3_000), max_size=20)


def counted(body: bytes) -> bytes:
    """Write a request with a counted body."""
    return b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def chunked(pieces: list[bytes]) -> bytes:
    """Write a request with a chunked body."""
    chunks = b"".join(b"%X;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"POST /b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n" + chunks + b"0\r\nx: y\r\n\r\n"


COUNTED = st.binary(max_size=200).map(lambda body: (counted(body), body))
CHUNKED = st.lists(st.binary(min_size=1, max_size=60), max_size=5).map(lambda p: (chunked(p), b"".join(p)))


@given(requests=st.lists(st.one_of(COUNTED, CHUNKED), max_size=6), cuts=CUTS)
def test_cuts_do_not_matter(requests, cuts):
    """Whatever the bodies hold, and however the bytes are cut, the requests are the same."""
    text = b"".join(written for written, _ in requests)
    reader, found, begin = RequestReader(Limits()), [], 0
    for cut in [*sorted(cuts), len(text)]:
        reader.feed(text[begin:cut])
        begin = max(begin, cut)
        while (request := reader.next_request()) is not None:
            found.append(request.body)
    assert found == [body for _, body in requests]
    assert reader.num_buffered == 0
    assert not reader.awaits_body


@given(data=st.lists(st.sampled_from(NOISE), max_size=40), cuts=CUTS)
def test_noise_is_refused_or_waited_for(data, cuts):
    """Nothing makes the reader fail in another way than by refusing, nor give a request that breaks the rules."""
    text = b"GET / HTTP/1.1\r\nhost: a\r\n" + b"".join(data)
    reader, begin = RequestReader(Limits(max_header_bytes=200, max_body_bytes=20)), 0
    refused_with: list[int] = []
    try:
        for cut in [*sorted(cuts), len(text)]:
            reader.feed(text[begin:cut])
            begin = max(begin, cut)
            while (request := reader.next_request()) is not None:
                names = [name for name, _ in request.headers]
                assert names.count(b"host") == 1
                assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
                assert not any(set(value) & set(b"\r\n\0") for _, value in request.headers)
                assert len(request.body) <= 20
    except BadRequestError as bad:
        refused_with.append(bad.status)
    assert set(refused_with) <= {400, 413, 431, 501, 505}
    assert reader.num_buffered <= len(text)
