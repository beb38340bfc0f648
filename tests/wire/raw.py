"""The other side of the wire, byte by byte: a raw client, a raw origin, and a sink that remembers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from polyslo.wire.client import Failure, Origin
from polyslo.wire.server import Exchange, Handler, Limits, Listener, listen

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def echo(exchange: Exchange) -> None:
    """Answer with what was asked."""
    text = b"%b %b?%b %b" % (exchange.method, exchange.path, exchange.query, exchange.body)
    exchange.respond(200, [(b"x-echo", b"1")], text)


@asynccontextmanager
async def serving(handler: Handler = echo, limits: Limits | None = None) -> AsyncIterator[Listener]:
    """Serve on a free port."""
    listener = await listen(handler, "127.0.0.1", 0, limits=limits)
    try:
        yield listener
    finally:
        await listener.close(0.0)


class Peer:
    """A raw client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.writer.write(data)

    async def until(self, mark: bytes) -> bytes:
        """Read up to and with `mark`."""
        return await self.reader.readuntil(mark)

    async def rest(self) -> bytes:
        """Read to the end of the connection, be it an orderly one or a reset."""
        found = bytearray()
        try:
            while piece := await self.reader.read(65536):
                found += piece
        except ConnectionError:
            pass
        return bytes(found)

    async def leave(self) -> None:
        """Close."""
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@asynccontextmanager
async def visiting(port: int) -> AsyncIterator[Peer]:
    """Connect a raw client."""
    peer = Peer(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield peer
    finally:
        await peer.leave()


async def answer_to(data: bytes, handler: Handler = echo, limits: Limits | None = None) -> bytes:
    """Return everything that the server says to these bytes before it closes."""
    async with serving(handler, limits) as listener, visiting(listener.port) as peer:
        peer.send(data)
        return await peer.rest()


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[int]:
    """Run a raw origin that does `script` on each connection; gives its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def saying(*pieces: bytes, then_waits: bool = False) -> Script:
    """Return a script: read a request's head, write the pieces, close or wait for the client to."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if then_waits:
            await reader.read()

    return script


class Recorder:
    """A sink that remembers what it was told, in order."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self.calls: list[str] = []
        self.failure: Failure | None = None
        self.over = asyncio.Event()
        self.came = asyncio.Event()

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Remember the head."""
        self.calls.append("head")
        self.status, self.headers = status, headers

    def on_data(self, data: bytes) -> None:
        """Remember a piece; repeated pieces are one entry."""
        if self.calls[-1] != "data":
            self.calls.append("data")
        self.body += data
        self.came.set()

    def on_end(self) -> None:
        """Remember the end."""
        self.calls.append("end")
        self.over.set()

    def on_failure(self, failure: Failure) -> None:
        """Remember the failure."""
        self.calls.append("failure")
        self.failure = failure
        self.over.set()


@asynccontextmanager
async def origin_at(port: int, **options: float) -> AsyncIterator[Origin]:
    """Give an origin on this machine."""
    origin = Origin(f"http://127.0.0.1:{port}", **options)  # type: ignore[arg-type]
    try:
        yield origin
    finally:
        await origin.close()


async def get(origin: Origin, sink: Recorder, *, method: bytes = b"GET", body: bytes = b"", **times: float) -> Recorder:
    """Send a request and wait until it is over."""
    origin.send(method, b"/", [], body, sink, **({"head_timeout_s": 10.0, "idle_timeout_s": 10.0} | times))  # type: ignore[arg-type]
    await sink.over.wait()
    return sink
