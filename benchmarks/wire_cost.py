"""Print what a bare proxy of server-sent events costs: server, client and event counter, and nothing between.

    python benchmarks/wire_cost.py [--streams 50,200,400] [--seconds 5]

The proxy is this process; the upstream and the clients are its children, on the same machine. Paced streams send a
chunk of 200 bytes every 20 ms each; saturated ones as fast as the proxy takes them. What is printed is the proxy's
own CPU time (user and system) over the chunks that passed, so that a busy machine shifts it little.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
from multiprocessing.connection import Connection

import uvloop

from polyslo.wire.client import Call, Failure, Origin, end_to_end
from polyslo.wire.server import Exchange, listen
from polyslo.wire.sse import EventCounter

CHUNK = b"data: " + b"x" * 192 + b"\n\n"
PACE_S = 0.02
SETTLE_S = 1.0
SATURATING_STREAMS = 16
PIECES_A_TURN = 16  # of a saturating stream, before the upstream looks at its other streams


def main() -> None:
    """Measure paced streams by number, then saturated ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default="50,200,400")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    print("| streams | offered | chunks/s | CPU, us a chunk | of it system | CPU |")
    print("|---|---|---|---|---|---|")
    for num_streams in map(int, options.streams.split(",")):
        show(num_streams, "paced", *uvloop.run(measure(b"/paced", num_streams, options.seconds)))
    show(SATURATING_STREAMS, "saturated", *uvloop.run(measure(b"/saturated", SATURATING_STREAMS, options.seconds)))


def show(num_streams: int, offered: str, chunks: int, user_s: float, system_s: float, span_s: float) -> None:
    """Print a row."""
    cpu_s = user_s + system_s
    print(f"| {num_streams} | {offered} | {chunks / span_s:,.0f} | {cpu_s / chunks * 1e6:.1f} "
          f"| {system_s / chunks * 1e6:.1f} | {cpu_s / span_s:.0%} |", flush=True)  # fmt: skip


async def measure(path: bytes, num_streams: int, seconds: float) -> tuple[int, float, float, float]:
    """Return chunks passed, user and system CPU seconds, and the seconds that they were counted over."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    upstream = context.Process(target=run_upstream, args=(theirs,), daemon=True)
    upstream.start()
    proxy = Proxy(Origin(f"http://127.0.0.1:{await asyncio.to_thread(ours.recv)}"))
    listener = await listen(proxy.handle, "127.0.0.1", 0)
    clients = context.Process(target=run_clients, args=(listener.port, path, num_streams), daemon=True)
    clients.start()
    while proxy.num_begun < num_streams:
        await asyncio.sleep(0.05)
    await asyncio.sleep(SETTLE_S)
    loop = asyncio.get_running_loop()
    began, began_s, before = proxy.num_events, loop.time(), os.times()
    await asyncio.sleep(seconds)
    chunks, span_s, after = proxy.num_events - began, loop.time() - began_s, os.times()
    for child in (clients, upstream):
        child.terminate()
        await asyncio.to_thread(child.join)
    await listener.close(0.0)
    await proxy.origin.close()
    return chunks, after.user - before.user, after.system - before.system, span_s


class Proxy:
    """Passes every request on and counts the events that come back."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.num_begun = 0
        self.num_events = 0

    def handle(self, exchange: Exchange) -> None:
        """Pass a request on."""
        self.num_begun += 1
        relay = Relay(self, exchange)
        relay.call = self.origin.send(
            exchange.method, exchange.path, end_to_end(exchange.headers), exchange.body, relay,
            head_timeout_s=30.0, idle_timeout_s=30.0,
        )  # fmt: skip
        exchange.on_gone = relay.call.abort
        exchange.on_blocked = relay.on_blocked


class Relay:
    """A response on its way."""

    call: Call

    def __init__(self, proxy: Proxy, exchange: Exchange) -> None:
        self.proxy = proxy
        self.exchange = exchange
        self.counter = EventCounter()

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Pass the head on."""
        self.exchange.start(status, end_to_end(headers))

    def on_data(self, data: bytes) -> None:
        """Count a piece and pass it on."""
        self.proxy.num_events += self.counter.feed(data)
        self.exchange.write(data)

    def on_end(self) -> None:
        """End the response."""
        self.exchange.end()

    def on_failure(self, failure: Failure) -> None:
        """Break the response off."""
        self.exchange.abort()

    def on_blocked(self, is_blocked: bool) -> None:
        """Let the upstream wait for the client."""
        if is_blocked:
            self.call.pause()
        else:
            self.call.resume()


def run_upstream(pipe: Connection) -> None:
    """Serve endless streams; send the port through `pipe`."""

    async def serve() -> None:
        listener = await listen(stream, "127.0.0.1", 0)
        pipe.send(listener.port)
        await asyncio.Event().wait()

    uvloop.run(serve())


def stream(exchange: Exchange) -> None:
    """Begin an endless stream, paced or as fast as it is taken."""
    loop = asyncio.get_running_loop()
    is_going = True

    def pause(is_blocked: bool) -> None:
        nonlocal is_going
        is_going = not is_blocked
        if is_going and exchange.path == b"/saturated":
            loop.call_soon(fill)

    def fill() -> None:
        for _ in range(PIECES_A_TURN):
            if not is_going or exchange.is_over:
                return
            exchange.write(CHUNK)
        loop.call_soon(fill)

    def beat(due_s: float) -> None:
        if not exchange.is_over:
            exchange.write(CHUNK)
            loop.call_at(due_s, beat, due_s + PACE_S)

    exchange.on_blocked = pause
    exchange.start(200, [(b"content-type", b"text/event-stream")])
    if exchange.path == b"/saturated":
        fill()
    else:
        beat(loop.time() + PACE_S)


def run_clients(port: int, path: bytes, num_streams: int) -> None:
    """Open the streams, spread over one pace, and read them for ever."""

    class Drain(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.write(b"POST %b HTTP/1.1\r\nhost: proxy\r\ncontent-length: 2\r\n\r\n{}" % path)

    async def read() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(num_streams):
            await loop.create_connection(Drain, "127.0.0.1", port)
            await asyncio.sleep(PACE_S / num_streams)
        await asyncio.Event().wait()

    uvloop.run(read())


if __name__ == "__main__":
    main()
