"""Server and client back to back, as the gateway uses them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from polyslo.wire.client import Call, Failure, Origin, end_to_end
from polyslo.wire.fetch import fetch
from polyslo.wire.server import Exchange, Handler, Listener, listen
from polyslo.wire.sse import EventCounter
from wire.raw import Recorder, get, origin_at, serving, visiting

POST = b"POST /v1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"
EVENT = b"data: %b\n\n" % (b"x" * 100)
CERTIFICATE = Path(__file__).with_name("localhost.pem")  # self-signed, for 127.0.0.1, made for these tests alone


class Relay:
    """A response on its way through."""

    call: Call

    def __init__(self, origin: Origin, exchange: Exchange) -> None:
        self.exchange = exchange
        self.counter = EventCounter()
        self.num_events = 0
        self.call = origin.send(
            exchange.method, exchange.path, end_to_end(exchange.headers), exchange.body, self,
            head_timeout_s=9.0, idle_timeout_s=9.0,
        )  # fmt: skip
        exchange.on_gone = self.call.abort
        exchange.on_blocked = lambda is_blocked: self.call.pause() if is_blocked else self.call.resume()

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Pass the head on."""
        self.exchange.start(status, end_to_end(headers))

    def on_data(self, data: bytes) -> None:
        """Count a piece and pass it on."""
        self.num_events += self.counter.feed(data)
        self.exchange.write(data)

    def on_end(self) -> None:
        """End the response."""
        self.exchange.end()

    def on_failure(self, failure: Failure) -> None:
        """Answer, or break off."""
        if failure.started:
            self.exchange.abort()
        else:
            self.exchange.respond(502, [], failure.kind.encode())


class Proxy:
    """A handler that passes everything on."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.relays: list[Relay] = []

    def handle(self, exchange: Exchange) -> None:
        """Pass a request on."""
        self.relays.append(Relay(self.origin, exchange))


@asynccontextmanager
async def proxied(upstream: Handler) -> AsyncIterator[tuple[Proxy, Listener]]:
    """Serve `upstream` through a proxy."""
    async with serving(upstream) as there, origin_at(there.port) as origin:
        proxy = Proxy(origin)
        async with serving(proxy.handle) as here:
            yield proxy, here


async def through(upstream: Handler) -> bytes:
    """Ask `upstream` through a proxy; return the raw answer."""
    async with proxied(upstream) as (_, here), visiting(here.port) as peer:
        peer.send(POST)
        return await peer.rest()


def test_events_pass_one_by_one(run):
    """Each event is counted and passed on when it comes, not when the next one or the end does."""

    async def scenario() -> None:
        upstream: list[Exchange] = []

        def begin(exchange: Exchange) -> None:
            upstream.append(exchange)
            exchange.start(200, [(b"content-type", b"text/event-stream")])

        async with proxied(begin) as (proxy, here), visiting(here.port) as peer:
            peer.send(POST)
            assert b"content-type: text/event-stream" in await peer.until(b"\r\n\r\n")
            for i in range(1, 20):
                upstream[0].write(EVENT)
                assert await peer.until(b"\n\n\r\n") == b"6c\r\n%b\r\n" % EVENT
                assert proxy.relays[0].num_events == i
            upstream[0].end()
            assert await peer.rest() == b"0\r\n\r\n"
            assert proxy.origin.num_idle == 1

    run(scenario())


def test_a_slow_client_slows_the_origin(run):
    """What no side reads is held by neither for long: the block goes through the proxy to the origin's handler."""

    async def scenario() -> None:
        blocked, done = asyncio.Event(), asyncio.Event()
        pieces = [b"%06d" % i * 2_000 for i in range(3_000)]

        class Source:
            def __init__(self, exchange: Exchange) -> None:
                self.exchange, self.left, self.is_blocked = exchange, list(pieces), False
                exchange.on_blocked = self.on_blocked
                exchange.start(200, [])
                self.pump()

            def on_blocked(self, is_blocked: bool) -> None:
                self.is_blocked = is_blocked
                if is_blocked:
                    blocked.set()
                else:
                    self.pump()

            def pump(self) -> None:
                while self.left and not self.is_blocked:
                    self.exchange.write(self.left.pop(0))
                if not self.left and not done.is_set():
                    done.set()
                    self.exchange.end()

        async with proxied(Source) as (_, here), visiting(here.port) as peer:
            peer.send(POST)
            await peer.until(b"\r\n\r\n")
            await blocked.wait()
            await asyncio.sleep(0.05)
            assert not done.is_set()  # 36 MB fit in no buffer between them
            body = await peer.rest()
            assert body.endswith(b"0\r\n\r\n")
            assert b"".join(body.split(b"\r\n")[1::2]) == b"".join(pieces)

    run(scenario())


def test_a_flood_lets_others_have_their_turn(run):
    """However much an origin sends at once, no two large pieces of it are read in one turn of the loop."""

    async def scenario() -> None:
        loop, turn, turns = asyncio.get_running_loop(), 0, []

        def count() -> None:
            nonlocal turn
            turn += 1
            loop.call_soon(count)

        class Sink(Recorder):
            def on_data(self, data: bytes) -> None:
                super().on_data(data)
                if len(data) > 120_000:
                    turns.append(turn)

        body = b"x" * 4_000_000
        answer = serving(lambda exchange: exchange.respond(200, [], body))
        async with answer as listener, origin_at(listener.port) as origin:
            loop.call_soon(count)
            sink = await get(origin, Sink())
            assert bytes(sink.body) == body
            assert len(set(turns)) == len(turns)

    run(scenario())


def test_a_client_that_leaves_frees_the_origin(run):
    """Its going is passed on at once."""

    async def scenario() -> None:
        began, gone = asyncio.Event(), asyncio.Event()

        def upstream(exchange: Exchange) -> None:
            exchange.on_gone = gone.set
            exchange.start(200, [])
            began.set()

        async with proxied(upstream) as (proxy, here):
            async with visiting(here.port) as peer:
                peer.send(POST)
                await began.wait()
            await gone.wait()
            assert proxy.origin.num_connections == 0

    run(scenario())


def test_an_origin_that_breaks_off_is_seen_to(run):
    """The client's response has no end either; before its head there is an answer instead."""

    def begins(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.write(EVENT)
        asyncio.get_running_loop().call_later(0.01, exchange.abort)

    assert run(through(begins)).endswith(EVENT + b"\r\n")
    assert run(through(Exchange.abort)).startswith(b"HTTP/1.1 502 ")


def test_a_callback_that_fails_holds_nothing_back():
    """A handler's mistake in `on_gone` is reported, and the connection let go of."""
    told: list[str] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
        came = asyncio.Event()

        def handler(exchange: Exchange) -> None:
            exchange.on_gone = {}.popitem
            came.set()

        async with serving(handler) as listener:
            async with visiting(listener.port) as peer:
                peer.send(POST)
                await came.wait()
            while listener.num_connections:
                await asyncio.sleep(0.001)

    asyncio.run(scenario())
    assert len(told) == 1
    assert "handler failed" in told[0]


def test_small_pieces_are_not_held_back(run):
    """Both sides turn off the kernel's waiting for more (Nagle's algorithm)."""
    options: list[int] = []

    def nodelay(transport: asyncio.Transport) -> None:
        options.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    async def scenario() -> None:
        def handler(exchange: Exchange) -> None:
            nodelay(exchange._carrier.transport)
            exchange.respond(200, [], b"")

        async with serving(handler) as listener, origin_at(listener.port) as origin:
            await get(origin, Recorder())
            nodelay(next(iter(origin._idle)).transport)

    run(scenario())
    assert len(options) == 2
    assert all(options)


def test_everything_works_under_tls(run):
    """Streams, keep-alive, refusal and a client that leaves, encrypted; a certificate nobody vouches for fails."""

    async def scenario() -> None:
        gone = asyncio.Event()

        def handler(exchange: Exchange) -> None:
            exchange.start(200, [])
            exchange.write(EVENT * 1_000)
            if exchange.method == b"GET":
                exchange.end()
            else:
                exchange.on_gone = gone.set

        server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server_side.load_cert_chain(CERTIFICATE)
        listener = await listen(handler, "127.0.0.1", 0, ssl=server_side)
        url = f"https://127.0.0.1:{listener.port}"
        origin, wary = Origin(url, ssl=ssl.create_default_context(cafile=str(CERTIFICATE))), Origin(url)
        for _ in range(2):
            assert (await fetch(origin, b"GET", b"/", timeout_s=9.0)).body == EVENT * 1_000
        assert (listener.num_connections, origin.num_idle) == (1, 1)
        assert (await fetch(origin, b"GET", b"/", [(b"content-encoding", b"br")], timeout_s=9.0)).status == 415
        sink = Recorder()
        call = origin.send(b"PUT", b"/", [], b"", sink, head_timeout_s=9.0, idle_timeout_s=9.0)
        await sink.came.wait()
        call.abort()
        await gone.wait()
        sink = await get(wary, Recorder())
        assert (sink.calls, sink.failure.kind) == (["failure"], "connect")
        for one in (origin, wary):
            await one.close()
        await listener.close(1.0)

    run(scenario())
