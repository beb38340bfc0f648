"""A chunk that comes alone may go on with its framing; whatever else comes is parsed. No sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polyslo.wire.call import Call
from polyslo.wire.origin_connection import OriginConnection
from wire.raw import Recorder

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
FIRST = b"5\r\nfirst\r\n"  # with the head; from then on chunks may come alone


class Transport:
    """Takes a request, and has nothing to say."""

    def __init__(self) -> None:
        self.is_aborted = False

    def writelines(self, parts: Any) -> None:
        """Take them."""

    def abort(self) -> None:
        """Close."""
        self.is_aborted = True

    def is_closing(self) -> bool:
        """Tell whether it was closed."""
        return self.is_aborted

    def get_write_buffer_size(self) -> int:
        """Everything has gone."""
        return 0


class Keeper:
    """Keeps nothing."""

    def keep(self, connection: OriginConnection) -> None:
        """Let it go."""

    def forget(self, connection: OriginConnection) -> None:
        """Let it go."""


async def heard(*pieces: bytes) -> tuple[Recorder, list[tuple[bytes, bytes]]]:
    """Return what sink and `on_chunk` are told where these pieces of a body come, each in a read of its own."""
    sink, alone = Recorder(), []
    call = Call(sink, (b"GET / HTTP/1.1\r\n\r\n", b""), False, 9.0, 9.0)
    connection: Any = OriginConnection(Keeper())  # type: ignore[arg-type]
    connection.connection_made(Transport())
    connection.carry(call)
    connection.data_received(HEAD + FIRST)
    sink.body.clear()
    call.on_chunk = lambda payload, chunk: alone.append((payload, chunk))
    for piece in pieces:
        connection.data_received(piece)
    connection.connection_lost(None)
    return sink, alone


def framed(payload: bytes, form: bytes = b"%x") -> bytes:
    """Return a chunk."""
    return form % len(payload) + b"\r\n" + payload + b"\r\n"


@pytest.mark.parametrize("size", [1, 15, 16, 17, 255, 256, 257, 2000, 4088])
def test_a_chunk_that_comes_alone_keeps_its_framing(size: int):
    """Of every length up to what is told at sight; the payload may look like framing itself."""
    payload = (b"5\r\n" * size)[:size]
    sink, alone = asyncio.run(heard(framed(payload), framed(b"a"), b"0\r\n\r\n"))
    assert alone == [(payload, framed(payload)), (b"a", framed(b"a"))]
    assert (sink.calls, sink.body) == (["head", "data", "end"], b"")


@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ((framed(b"x" * 31, b"%X"),), b"x" * 31),
        ((framed(b"x" * 5, b"0%x"),), b"x" * 5),
        ((framed(b"x" * 5, b"%x;a=b"),), b"x" * 5),
        ((framed(b"x" * 5000),), b"x" * 5000),
        ((framed(b"ab") + framed(b"cd"),), b"abcd"),
        ((framed(b"ab")[:3], framed(b"ab")[3:]), b"ab"),
        ((b"2\r\n", b"ab\r\n"), b"ab"),
        ((b"7\r\n", framed(b"a"), b"b\r\n"), b"1\r\na\r\nb"),  # the second piece is payload that looks like a chunk
    ],
)
def test_whatever_else_comes_is_parsed(pieces: tuple[bytes, ...], body: bytes):
    """Other ways to write a chunk, several together, halves: the sink gets the payload; the next one is told again."""
    sink, alone = asyncio.run(heard(*pieces, framed(b"c"), b"0\r\n\r\n"))
    assert (sink.body, sink.calls[-1]) == (body, "end")
    assert alone == [(b"c", framed(b"c"))]


@pytest.mark.parametrize("piece", [b"3\r\nab\r\n\r\n\r\n", b"-\r\nab\r\n", b"2\r\nabc\r\n"])
def test_what_only_looks_like_a_chunk_is_malformed(piece: bytes):
    """A size that is not the payload's fails the call; nothing of it goes on as a chunk."""
    sink, alone = asyncio.run(heard(piece))
    assert sink.failure is not None
    assert alone == []
