"""Clients that are slow, silent, gone or deaf, and the server's own leaving."""

from __future__ import annotations

import asyncio

import pytest

from polyslo.wire.server import Exchange, Limits
from wire.raw import answer_to, echo, serving, visiting

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
SOON_S = 0.03
NEVER_S = 600.0
PIECE = b"x" * 10_000


def limits(**changes: float) -> Limits:
    """Return limits under which nothing times out but what is named."""
    times = {"head_timeout_s": NEVER_S, "body_timeout_s": NEVER_S, "idle_timeout_s": NEVER_S}
    return Limits(**(times | changes))  # type: ignore[arg-type]


def test_a_head_that_does_not_end_is_408(run):
    """A client that drips a head is answered and closed when the head's time is over, however often it sends."""

    async def scenario() -> bytes:
        async with serving(limits=limits(head_timeout_s=SOON_S)) as listener, visiting(listener.port) as peer:
            answer = asyncio.ensure_future(peer.rest())
            for byte in b"GET / HTTP/1.1\r\nhost: " + b"a" * 10_000:
                peer.send(bytes([byte]))
                await asyncio.sleep(0.001)
                if answer.done():
                    break
            return await answer

    assert run(scenario()).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_does_not_end_is_408(run):
    """So is one whose body does not come."""
    data = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhell"
    assert run(answer_to(data, limits=limits(body_timeout_s=SOON_S))).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("data", [b"", b"\r\n"])
def test_a_client_that_says_nothing_is_closed(run, data):
    """A connection without a request is closed without a word when the head's time is over."""
    assert run(answer_to(data, limits=limits(head_timeout_s=SOON_S))) == b""


def test_an_idle_connection_is_closed(run):
    """Between requests it is the idle time that counts."""
    answer = run(answer_to(GET, limits=limits(idle_timeout_s=SOON_S)))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"GET /? ")


def test_a_handler_may_take_its_time(run):
    """While the handler has a request no time of the client's runs."""

    async def scenario() -> bytes:
        loop = asyncio.get_running_loop()
        short = limits(head_timeout_s=SOON_S, body_timeout_s=SOON_S, idle_timeout_s=SOON_S)

        return await answer_to(GET, lambda exchange: loop.call_later(3 * SOON_S, echo, exchange), short)  # type: ignore[arg-type,return-value]

    assert run(scenario()).endswith(b"GET /? ")


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
@pytest.mark.parametrize("starts", [False, True])
def test_a_client_that_leaves_is_noticed(run, how, starts):
    """`on_gone` is called once, before or after the response began; what is written then is ignored."""

    async def scenario() -> None:
        seen: list[Exchange] = []
        calls: list[str] = []
        came, gone = asyncio.Event(), asyncio.Event()

        def handler(exchange: Exchange) -> None:
            seen.append(exchange)
            exchange.on_gone = lambda: (calls.append("gone"), gone.set())  # type: ignore[func-returns-value,assignment]
            if starts:
                exchange.start(200, [])
            came.set()

        async with serving(handler) as listener, visiting(listener.port) as peer:
            peer.send(GET)
            await came.wait()
            if how == "close":
                peer.writer.close()
            elif how == "half-close":
                peer.writer.write_eof()
            else:
                peer.writer.transport.abort()
            await gone.wait()
            exchange = seen[0]
            assert exchange.is_over
            if starts:
                exchange.write(b"late")
                exchange.end()
            else:
                exchange.respond(200, [], b"late")
            exchange.abort()
            while listener.num_connections:
                await asyncio.sleep(0)
        assert calls == ["gone"]

    run(scenario())


def test_a_response_that_has_ended_is_not_gone(run):
    """A client that leaves after the end is no loss."""

    async def scenario() -> None:
        def handler(exchange: Exchange) -> None:
            exchange.on_gone = lambda: pytest.fail("called after the end")
            echo(exchange)

        async with serving(handler) as listener:
            async with visiting(listener.port) as peer:
                peer.send(GET)
                await peer.until(b"GET /? ")
            while listener.num_connections:
                await asyncio.sleep(0)

    run(scenario())


class Flood:
    """A handler that writes until it is blocked, and goes on when it no longer is."""

    def __init__(self, pieces: int) -> None:
        self.left = pieces
        self.blocks: list[bool] = []
        self.blocked = asyncio.Event()
        self.gone = asyncio.Event()

    def handle(self, exchange: Exchange) -> None:
        """Begin."""
        self.exchange = exchange
        exchange.on_blocked = self.on_blocked
        exchange.on_gone = self.gone.set
        exchange.start(200, [])
        self.on_blocked(False, first=True)

    def on_blocked(self, is_blocked: bool, first: bool = False) -> None:
        """Stop, or go on writing."""
        if not first:
            self.blocks.append(is_blocked)
        if is_blocked:
            self.blocked.set()
            return
        known = len(self.blocks)
        while self.left and len(self.blocks) == known:
            self.left -= 1
            self.exchange.write(PIECE)
        if not self.left and len(self.blocks) == known:
            self.exchange.end()


def test_a_slow_client_blocks_the_writer(run):
    """`on_blocked` goes on and off in turns, little is held meanwhile, and everything arrives."""

    async def scenario() -> None:
        flood = Flood(2_000)
        async with serving(flood.handle) as listener, visiting(listener.port) as peer:
            peer.send(GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
            await flood.blocked.wait()
            assert flood.left > 0
            answer = await peer.rest()
        assert answer.count(PIECE) == 2_000
        assert answer.endswith(b"0\r\n\r\n")
        assert flood.blocks == [True, False] * (len(flood.blocks) // 2)

    run(scenario())


def test_a_client_that_takes_nothing_is_cut(run):
    """One that stops reading mid-response is closed when the idle time is over, and its handler told."""

    async def scenario() -> None:
        flood = Flood(10_000)
        async with serving(flood.handle, limits(idle_timeout_s=SOON_S)) as listener, visiting(listener.port) as peer:
            peer.send(GET)
            await flood.gone.wait()
            assert flood.exchange.is_over

    run(scenario())


def test_a_client_that_does_not_take_the_last_bytes_is_cut(run):
    """A response that is complete, but not taken, does not hold the connection for ever."""

    async def scenario() -> None:
        def handler(exchange: Exchange) -> None:
            exchange.respond(200, [], b"x" * 20_000_000)

        close = GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
        async with serving(handler, limits(idle_timeout_s=SOON_S)) as listener:
            for data in (GET, close):
                async with visiting(listener.port) as peer:
                    peer.send(data)
                    await peer.until(b"\r\n\r\n")
                    while listener.num_connections:
                        await asyncio.sleep(0.01)
                    peer.writer.transport.abort()

    run(scenario())


def test_a_slow_client_that_takes_something_is_not_cut(run):
    """A large response to a client that reads steadily may take many idle times."""

    async def scenario() -> None:
        size = 20_000_000

        def handler(exchange: Exchange) -> None:
            exchange.respond(200, [], b"x" * size)

        async with serving(handler, limits(idle_timeout_s=0.1)) as listener, visiting(listener.port) as peer:
            peer.send(GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
            await peer.until(b"\r\n\r\n")
            for _ in range(10):
                size -= len(await peer.reader.readexactly(1_000_000))
                await asyncio.sleep(0.03)
            assert len(await peer.rest()) == size

    run(scenario())


def test_a_handler_that_ignores_blocking_is_cut(run):
    """What is held for a client that takes nothing is bounded even then."""

    async def scenario() -> None:
        def handler(exchange: Exchange) -> None:
            exchange.start(200, [])
            while not exchange.is_over:
                exchange.write(PIECE)

        async with serving(handler, Limits(max_unsent_bytes=1_000_000)) as listener, visiting(listener.port) as peer:
            peer.send(GET)
            assert not (await peer.rest()).endswith(b"0\r\n\r\n")

    run(scenario())


def test_closing_waits_for_what_is_under_way(run):
    """Idle connections close at once, an exchange may end within the grace, and nobody new is let in."""

    async def scenario() -> None:
        seen: list[Exchange] = []
        came = asyncio.Event()

        def handler(exchange: Exchange) -> None:
            if exchange.path == b"/":
                seen.append(exchange)
                came.set()
            else:
                echo(exchange)

        async with serving(handler) as listener, visiting(listener.port) as idle, visiting(listener.port) as busy:
            idle.send(b"GET /idle HTTP/1.1\r\nhost: a\r\n\r\n")
            await idle.until(b"GET /idle? ")
            busy.send(GET)
            await came.wait()
            closing = asyncio.ensure_future(listener.close(NEVER_S))
            assert await idle.rest() == b""
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", listener.port)
            assert not closing.done()
            echo(seen[0])
            answer = await busy.rest()
            assert b"connection: close\r\n" in answer
            assert answer.endswith(b"GET /? ")
            await closing
            assert listener.num_connections == 0

    run(scenario())


def test_closing_cuts_what_outlasts_the_grace(run):
    """After the grace the rest is cut, and its handlers are told."""

    async def scenario() -> None:
        gone = asyncio.Event()
        came = asyncio.Event()

        def handler(exchange: Exchange) -> None:
            exchange.on_gone = gone.set
            exchange.start(200, [])
            came.set()

        async with serving(handler) as listener, visiting(listener.port) as peer:
            peer.send(GET)
            await came.wait()
            await listener.close(SOON_S)
            assert gone.is_set()
            assert not (await peer.rest()).endswith(b"0\r\n\r\n")

    run(scenario())
