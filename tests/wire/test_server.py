"""Requests and responses on a server's connection."""

from __future__ import annotations

import asyncio

import pytest

from polyslo.wire.server import Exchange, Limits
from wire.raw import answer_to, echo, serving, visiting

GET = b"GET /a?b=c HTTP/1.1\r\nhost: a\r\n"
CLOSE = b"connection: close\r\n\r\n"


def stream(exchange: Exchange) -> None:
    """Answer in three pieces, one of them empty."""
    exchange.start(200, [(b"content-type", b"text/event-stream")])
    exchange.write(b"data: 1\n\n")
    exchange.write(b"")
    exchange.write(b"data: 2\n\n")
    exchange.end()


def test_a_request_is_taken_apart(run):
    """Path and query are split, names are lower-cased, values stripped, the peer named."""
    seen: list[Exchange] = []

    def handler(exchange: Exchange) -> None:
        seen.append(exchange)
        exchange.respond(204, [], b"")

    data = (
        b"POST /a?b?c HTTP/1.1\r\nHost: a\r\nX-One: \t1 \r\nx-one:2\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    )
    answer = run(answer_to(data, handler))
    assert answer == b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
    exchange = seen[0]
    assert (exchange.method, exchange.path, exchange.query, exchange.body) == (b"POST", b"/a", b"b?c", b"{}")
    assert exchange.header(b"x-one") == b"1"
    assert (b"x-one", b"2") in exchange.headers
    assert exchange.header(b"x-two") is None
    assert exchange.peer == "127.0.0.1"


def test_a_whole_response_is_counted(run):
    """`respond` adds the length."""
    answer = run(answer_to(GET + CLOSE))
    assert answer == (
        b"HTTP/1.1 200 OK\r\nx-echo: 1\r\ncontent-length: 11\r\nconnection: close\r\n\r\nGET /a?b=c "
    )  # fmt: skip


def test_a_response_in_pieces_is_chunked(run):
    """Each piece is a chunk; an empty one, which would end the body, is none."""
    answer = run(answer_to(GET + CLOSE, stream))
    assert b"\r\ntransfer-encoding: chunked\r\n" in answer
    assert answer.endswith(b"\r\n\r\n9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("handler", [echo, stream])
def test_head_has_no_body(run, handler):
    """HEAD is answered with the head that GET would have."""
    answer = run(answer_to(b"HEAD / HTTP/1.1\r\nhost: a\r\n" + CLOSE, handler))
    assert answer.endswith(b"\r\n\r\n")
    assert answer.count(b"\r\n\r\n") == 1


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body_have_none(run, status):
    """Pieces written under 204 and 304 go nowhere, as they do when a proxy passes such an answer on."""

    def handler(exchange: Exchange) -> None:
        exchange.start(status, [])
        exchange.write(b"x")
        exchange.end()

    answer = run(answer_to(GET + CLOSE, handler))
    assert answer.endswith(b"\r\nconnection: close\r\n\r\n")
    assert b"transfer-encoding" not in answer


def test_a_body_that_the_status_forbids_is_an_error(run):
    """`respond` with 204 and a body is a mistake of the handler's."""

    def handler(exchange: Exchange) -> None:
        with pytest.raises(ValueError, match="204 has no body"):
            exchange.respond(204, [], b"x")
        exchange.respond(200, [], b"")

    assert run(answer_to(GET + CLOSE, handler)).startswith(b"HTTP/1.1 200 ")


def test_pipelined_requests_are_answered_in_order(run):
    """However many come at once, and whoever answers late, answers keep the order of requests."""

    async def scenario() -> bytes:
        loop = asyncio.get_running_loop()

        def handler(exchange: Exchange) -> None:
            if exchange.query == b"late":
                loop.call_later(0.001, echo, exchange)
            else:
                echo(exchange)

        paths = [b"/%d?%b" % (i, b"late" if i % 7 == 0 else b"") for i in range(50)]
        data = b"".join(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % path for path in paths[:-1])
        async with serving(handler) as listener, visiting(listener.port) as peer:
            peer.send(data + b"GET %b HTTP/1.1\r\nhost: a\r\n" % paths[-1] + CLOSE)
            answer = await peer.rest()
        places = [answer.index(b"GET %b " % path) for path in paths]
        assert places == sorted(places)
        return answer

    assert run(scenario()).count(b"HTTP/1.1 200 OK") == 50  # fmt: skip


def test_one_exchange_at_a_time(run):
    """A second request is not handed on while the first is unanswered, and reading stops far ahead of it."""

    async def scenario() -> None:
        seen: list[Exchange] = []
        came = asyncio.Event()

        def handler(exchange: Exchange) -> None:
            seen.append(exchange)
            came.set()

        async with serving(handler) as listener, visiting(listener.port) as peer:
            one = b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 10_000 + b"\r\n\r\n"
            peer.send(one)
            await came.wait()
            for _ in range(2_000):
                peer.send(one)
            drained = asyncio.ensure_future(peer.writer.drain())
            done, _ = await asyncio.wait([drained], timeout=0.05)
            assert not done  # 20 MB fit in no buffer between them, and the server holds them back
            assert len(seen) == 1
            drained.cancel()
            peer.writer.transport.abort()

    run(scenario())


def test_requests_may_come_byte_by_byte(run):
    """Where the bytes are cut does not matter."""

    async def scenario() -> bytes:
        data = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        data += b"3;x=y\r\nabc\r\n02\r\nde\r\n0\r\nt: 1\r\n\r\n"
        async with serving() as listener, visiting(listener.port) as peer:
            for byte in data + GET + CLOSE:
                peer.send(bytes([byte]))
                await asyncio.sleep(0)
            return await peer.rest()

    answer = run(scenario())
    assert answer.index(b"POST /? abcde") < answer.index(b"GET /a?b=c ")


def test_a_client_that_waits_to_continue_is_told_to(run):
    """`Expect: 100-continue` is answered before the body, once."""

    async def scenario() -> None:
        async with serving() as listener, visiting(listener.port) as peer:
            peer.send(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n" + CLOSE)
            assert await peer.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            peer.send(b"{")
            await asyncio.sleep(0.01)
            peer.send(b"}")
            answer = await peer.rest()
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"POST /? {}")

    run(scenario())


def test_a_body_that_comes_along_needs_no_continue(run):
    """The interim answer is left out when the body is there already."""
    data = b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n" + CLOSE + b"{}"
    assert run(answer_to(data)).startswith(b"HTTP/1.1 200 ")


def test_old_clients_are_served_their_way(run):
    """HTTP/1.0 has no chunks and closes, unless it is asked to stay for a counted response."""
    answer = run(answer_to(b"GET / HTTP/1.0\r\n\r\n", stream))
    assert b"transfer-encoding" not in answer
    assert answer.endswith(b"connection: close\r\n\r\ndata: 1\n\ndata: 2\n\n")
    kept = b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"
    answer = run(answer_to(kept + b"GET / HTTP/1.0\r\n\r\n"))
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.index(b"connection: keep-alive") < answer.index(b"connection: close")


def test_absolute_targets_are_understood(run):
    """A client that takes the server for a proxy names the whole URL."""
    assert run(answer_to(b"GET http://a/b?c HTTP/1.1\r\nhost: a\r\n" + CLOSE)).endswith(b"GET /b?c ")
    assert run(answer_to(b"GET http://a?c HTTP/1.1\r\nhost: a\r\n" + CLOSE)).endswith(b"GET /?c ")


@pytest.mark.parametrize(
    "field",
    [
        (b"x", b"a\r\nset-cookie: b"),
        (b"x", b"a\nb"),
        (b"x", b"a\rb"),
        (b"x", b"a\x00b"),
        (b"x\r\ny", b"a"),
        (b"x y", b"a"),
        (b"x:", b"a"),
        (b"", b"a"),
        (b"content-length", b"5"),
        (b"Transfer-Encoding", b"chunked"),
        (b"connection", b"close"),
    ],
)
def test_headers_unfit_to_send_are_errors(run, field):
    """Nothing can be injected through a header, nothing is sent, and the handler may still answer."""

    def handler(exchange: Exchange) -> None:
        with pytest.raises(ValueError, match="header"):
            exchange.respond(200, [(b"a", b"b"), field], b"")
        with pytest.raises(ValueError, match="header"):
            exchange.start(200, [field])
        exchange.respond(500, [], b"")

    answer = run(answer_to(GET + CLOSE, handler))
    assert answer == b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def test_calls_out_of_order_are_errors(run):
    """Two answers, or pieces before a head or after the end, are mistakes and reach nobody."""

    def handler(exchange: Exchange) -> None:
        with pytest.raises(RuntimeError, match="nothing was sent yet"):
            exchange.write(b"x")
        with pytest.raises(RuntimeError, match="nothing was sent yet"):
            exchange.end()
        stream(exchange)
        with pytest.raises(RuntimeError, match="has ended"):
            exchange.write(b"x")
        with pytest.raises(RuntimeError, match="has ended"):
            exchange.respond(200, [], b"")

    assert run(answer_to(GET + CLOSE, handler)).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("starts", [False, True])
def test_a_handler_that_fails_is_reported(starts):
    """Its client gets 500, or sees the response cut short; the loop's exception handler is told."""
    told: list[str] = []

    def handler(exchange: Exchange) -> None:
        if starts:
            exchange.start(200, [])
        raise KeyError("bug")

    async def scenario() -> bytes:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
        return await answer_to(GET + CLOSE, handler)

    answer = asyncio.run(scenario())
    assert answer.startswith(b"" if starts else b"HTTP/1.1 500 ")
    assert not answer.endswith(b"0\r\n\r\n")
    assert len(told) == 1
    assert told[0].startswith("handler failed on <Exchange GET /a from 127.0.0.1")


def test_an_aborted_response_has_no_end(run):
    """A client can tell an aborted stream from a whole one."""

    async def scenario() -> bytes:
        loop = asyncio.get_running_loop()

        def handler(exchange: Exchange) -> None:
            exchange.start(200, [])
            exchange.write(b"x")
            loop.call_later(0.01, exchange.abort)

        return await answer_to(GET + CLOSE, handler)

    assert run(scenario()).endswith(b"\r\n\r\n1\r\nx\r\n")


def test_connections_over_the_limit_are_turned_away(run):
    """They get 503, and are welcome again once another has left."""

    async def scenario() -> None:
        async with serving(limits=Limits(max_connections=1)) as listener:
            async with visiting(listener.port) as first:
                first.send(GET + b"\r\n")
                await first.until(b"GET /a?b=c ")
                async with visiting(listener.port) as second:
                    assert (await second.rest()).startswith(b"HTTP/1.1 503 ")
                assert listener.num_connections == 1
            while listener.num_connections:
                await asyncio.sleep(0)
            async with visiting(listener.port) as third:
                third.send(GET + CLOSE)
                assert (await third.rest()).startswith(b"HTTP/1.1 200 ")

    run(scenario())
