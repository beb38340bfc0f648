"""Print what a token costs that goes through the gateway's Python, without sockets: from engine's bytes to client's.

    python benchmarks/token_cost.py [--rounds 2000]

The gateway as `serve` runs it, with connections that are written to and read from by hand. In each round a chunk comes
on each of 100 streams; then the loop turns, as the decisions follow from them apart from the bytes. The least of all
rounds is what it takes while caches are warm and nothing else runs: compare versions by that, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from typing import Any

from polyslo.gateway.app import Gateway
from polyslo.gateway.config.gateway import parse_config
from polyslo.gateway.warmup import warm_up
from polyslo.wire.call import Call
from polyslo.wire.client import Origin
from polyslo.wire.connection import ClientConnection
from polyslo.wire.origin_connection import OriginConnection

STREAMS = 100
MODEL = "bench"
CONFIG = {
    "server": {"port": 0, "metrics_port": 0, "compiled_relay": False},
    "classes": {"usual": {"ttft_ms": 60_000, "tpot_ms": 100}},
    "slo": {"default": "usual"},
    "models": [
        {
            "name": MODEL,
            "kv_capacity_tokens": 10**9,
            "chunk_limit_tokens": 2048,
            "endpoints": [{"url": f"http://127.0.0.1:{port}"} for port in range(9, 13)],  # nobody asks there
        }
    ],
}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


class Transport:
    """Takes bytes and forgets them."""

    def write(self, data: bytes) -> None:
        """Take them."""

    def writelines(self, parts: Any) -> None:
        """Take them."""

    def is_closing(self) -> bool:
        """Never."""
        return False

    def get_write_buffer_size(self) -> int:
        """Everything has gone."""
        return 0

    def set_write_buffer_limits(self, high: int) -> None:
        """There are none."""

    def get_extra_info(self, name: str) -> tuple[str, int]:
        """Return a peer."""
        return ("127.0.0.1", 1)

    def abort(self) -> None:
        """Close."""

    pause_reading = resume_reading = close = abort


class Dialled(Origin):
    """An origin whose connections are open at once."""

    connections: list[OriginConnection]

    def redial(self, call: Call) -> None:
        """See `Origin`."""
        connection: Any = OriginConnection(self)
        connection.connection_made(Transport())
        self.connections.append(connection)
        asyncio.get_running_loop().call_soon(connection.carry, call)


def main() -> None:
    """Print the least CPU time of a chunk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2000)
    options = parser.parse_args()
    warm_up()
    asyncio.run(measure(options.rounds))


async def measure(num_rounds: int) -> None:
    """Open the streams, send rounds of one and of two chunks, print both."""
    gateway = Gateway(parse_config(CONFIG, "benchmark"))
    await gateway.start()
    connections: list[OriginConnection] = []
    for instance in gateway.models[MODEL].instances:
        instance.origin.__class__ = Dialled
        instance.origin.connections = connections
    body = json.dumps({
        "model": MODEL, "stream": True, "max_tokens": 4096,
        "messages": [{"role": "user", "content": "Tell me a story about a gateway. " * 8}],
    }).encode()  # fmt: skip
    for _ in range(STREAMS):
        client: Any = ClientConnection(gateway.listener)
        client.connection_made(Transport())
        client.data_received(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
    await asyncio.sleep(0.1)
    streams = connections[-STREAMS:]  # the first ones ask for engines' health
    for stream in streams:
        stream.data_received(HEAD + chunk(role="assistant", content=""))
        stream.data_received(chunk(content=" gateway"))
    for num_together in (1, 2):
        least_s = await least_round_s(streams, chunk(content=" gateway") * num_together, num_rounds)
        print(f"{num_together} a read: {1e6 * least_s / STREAMS / num_together:.2f} us a chunk", flush=True)
    os._exit(0)  # its streams never end


async def least_round_s(streams: list[OriginConnection], data: bytes, num_rounds: int) -> float:
    """Return the least CPU time of a round, seconds."""
    least_s = float("inf")
    for _ in range(num_rounds):
        began_s = time.process_time()
        for stream in streams:
            stream.data_received(data)
        least_s = min(least_s, time.process_time() - began_s)
        await asyncio.sleep(0.0005)
    return least_s


def chunk(**delta: str) -> bytes:
    """Return an event as vLLM sends it, framed."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, "token_ids": None}
    event = {"id": "chatcmpl-5f8e1c7c2c9b4a0e", "object": "chat.completion.chunk", "created": 1_700_000_000,
             "model": MODEL, "choices": [choice]}  # fmt: skip
    data = b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


if __name__ == "__main__":
    main()
