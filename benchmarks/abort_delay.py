"""Print how soon an engine hears that a client has left a stream, through a running gateway.

    python benchmarks/abort_delay.py [--streams 200] [--leavers 100]

An engine sends a token every 20 ms on each of so many streams; one after the other clients close their connections,
and the time until the engine's own connection closes is taken. Once with tokens past Python, once through it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

from polyslo.fleets.ports import free_ports

PACE_S = 0.02
START_S = 60.0
EVENT = b'data: {"id":"c","choices":[{"index":0,"text":" a","finish_reason":null}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BODY = json.dumps({"model": "m", "prompt": "once", "max_tokens": 4096, "stream": True}).encode()
REQUEST = b"POST /v1/completions HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


class Engine(asyncio.Protocol):
    """Answers generations with endless streams, everything else with an empty object; notes when streams close."""

    streams: ClassVar[dict[bytes, asyncio.Transport]] = {}  # by the request id that the gateway passes on
    closed: ClassVar[dict[bytes, asyncio.Future[float]]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport, self._name = transport, b""

    def data_received(self, data: bytes) -> None:
        """Take a request, which comes in one piece here."""
        if not data.startswith(b"POST /v1/completions"):
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")  # type: ignore[attr-defined]
            return
        self._name = data.lower().split(b"x-request-id: ")[1].split(b"\r\n")[0]
        self.streams[self._name] = self._transport  # type: ignore[assignment]
        self._transport.write(STREAM_HEAD)  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        """Note when."""
        if self.streams.pop(self._name, None) is not None and self._name in self.closed:
            self.closed[self._name].set_result(asyncio.get_running_loop().time())


def main() -> None:
    """Measure both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--leavers", type=int, default=100)
    options = parser.parse_args()
    for is_compiled in (True, False):
        delays_s = sorted(asyncio.run(measure(options.streams, options.leavers, is_compiled)))
        way = "past Python" if is_compiled else "through Python"
        p99_s = delays_s[min(len(delays_s) - 1, int(0.99 * len(delays_s)))]
        print(f"{way}: {len(delays_s)} clients left among {options.streams} streams, the engine heard after "
              f"{1e3 * statistics.median(delays_s):.2f} ms (P50), {1e3 * p99_s:.2f} ms (P99), "
              f"{1e3 * delays_s[-1]:.2f} ms (worst)", flush=True)  # fmt: skip


async def measure(num_streams: int, num_leavers: int, is_compiled: bool) -> list[float]:
    """Return seconds from a client's closing to its engine's hearing of it."""
    loop = asyncio.get_running_loop()
    Engine.streams, Engine.closed = {}, {}
    server = await loop.create_server(Engine, "127.0.0.1", 0)
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "gateway.toml")
        file.write_text(
            f"[server]\nport = {port}\nmetrics_port = 0\ncompiled_relay = {str(is_compiled).lower()}\n"
            '[classes.usual]\nttft_ms = 60000\ntpot_ms = 100\n[slo]\ndefault = "usual"\n'
            '[[models]]\nname = "m"\nkv_capacity_tokens = 1000000000\nchunk_limit_tokens = 2048\n'
            f'[[models.endpoints]]\nurl = "http://127.0.0.1:{server.sockets[0].getsockname()[1]}"\n'
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "polyslo.cli.main", "serve", str(file), stderr=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        pacing = asyncio.create_task(pace())
        try:
            await until_ready(port)
            clients = {}
            for k in range(num_streams):
                name = b"r%d" % k
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                request = REQUEST % (len(BODY), BODY)
                writer.write(request.replace(b"host: g", b"host: g\r\nx-request-id: " + name))
                clients[name] = reader, writer
            for reader, _ in clients.values():
                for _ in range(20):  # tokens: it is on its way
                    await reader.readuntil(b"\n\n")
            drains = [asyncio.create_task(drain(reader)) for reader, _ in clients.values()]
            delays_s = []
            for name in list(clients)[:num_leavers]:
                Engine.closed[name] = loop.create_future()
                left_s = loop.time()
                clients[name][1].close()
                delays_s.append(await asyncio.wait_for(Engine.closed[name], 10.0) - left_s)
                await asyncio.sleep(0.01)
            for task in drains:
                task.cancel()
            return delays_s
        finally:
            pacing.cancel()
            process.terminate()
            await process.wait()
            server.close()


async def pace() -> None:
    """Give every stream its token."""
    while True:
        for transport in list(Engine.streams.values()):
            transport.write(CHUNK)
        await asyncio.sleep(PACE_S)


async def drain(reader: asyncio.StreamReader) -> None:
    """Take what comes, to its end."""
    while await reader.read(65536):
        pass


async def until_ready(port: int) -> None:
    """Wait until the gateway takes requests."""
    async with asyncio.timeout(START_S):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            writer.write(b"GET /health HTTP/1.1\r\nhost: g\r\n\r\n")
            answer = await reader.readuntil(b"\r\n")
            writer.close()
            if b" 200 " in answer:
                return
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    main()
