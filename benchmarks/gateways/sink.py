"""The clients of the benchmark: one process that opens streams and counts what comes, or asks over and over.

Told through a pipe, answers through it: `("open", port, body, number, seconds, look_every_s)` and when all have had a
first token, `("ask", port, body, number)`, `("count",)` for (events, whole answers, bytes, lost) so far, `("close",)`.

With `look_every_s` clients look for tokens so often instead of being woken by each. A client on the same machine that
sleeps is woken by whoever sends to it, and on an idle virtual CPU that costs the sender more than sending does: a
cost of the benchmark, paid by slow gateways only, because before fast ones the clients never get to sleep.
"""

from __future__ import annotations

import asyncio
import os
from multiprocessing.connection import Connection
from typing import Any

import uvloop

KEY = "sk-bench"  # the key that gateways insist on, where they can
_FIRST_TOKEN_S = 90.0  # with a busy machine in mind
_READ_BYTES = 16_384  # at a look; what is more waits for the next
_HEAD = (  # an SLO, which all are sent and ours reads
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
    b"x-llm-d-slo-ttft-ms: 60000\r\nx-llm-d-slo-tpot-ms: 100\r\n"
    b"authorization: Bearer sk-bench\r\ncontent-length: %d\r\n\r\n"
)


def request_bytes(body: bytes) -> bytes:
    """Return a request as it goes over the wire."""
    return _HEAD % len(body) + body


def run_sink(pipe: Connection) -> None:
    """Do what is told until killed."""

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        sink = Sink()
        while True:
            command, *arguments = await loop.run_in_executor(None, pipe.recv)
            pipe.send(await getattr(sink, command)(*arguments))

    uvloop.run(serve())


class Sink:
    """Connections that are open, and what came through them."""

    def __init__(self) -> None:
        self.num_events = self.num_answers = self.num_bytes = self.num_lost = 0
        self._readers: list[Reader] = []
        self._look_every_s = 0.0

    async def open(self, port: int, body: bytes, number: int, seconds: float, look_every_s: float) -> str:
        """Open so many streams, spread over a time; return what is wrong once each has had a token."""
        self._look_every_s = look_every_s
        request = request_bytes(body)
        for _ in range(number):
            await self._connect(port, request, False)
            await asyncio.sleep(seconds / number)
        late_s = asyncio.get_running_loop().time() + _FIRST_TOKEN_S
        while asyncio.get_running_loop().time() < late_s:
            if all(reader.has_token for reader in self._readers):
                if look_every_s:
                    for reader in self._readers:
                        reader.transport.pause_reading()
                    self._look()
                return ""
            await asyncio.sleep(0.05)
        lacking = [reader for reader in self._readers if not reader.has_token]
        return f"{len(lacking)} of {number} streams have no token; one got {lacking[0].first[:300]!r}"

    async def ask(self, port: int, body: bytes, number: int) -> str:
        """Begin to ask over so many connections, each again as soon as it is answered."""
        request = request_bytes(body)
        for _ in range(number):
            await self._connect(port, request, True)
        return ""

    async def count(self) -> tuple[int, int, int, int]:
        """Return events, answers, bytes, and connections that were closed on us."""
        return self.num_events, self.num_answers, self.num_bytes, self.num_lost

    async def close(self) -> str:
        """Close all."""
        self._look_every_s = 0.0
        for reader in self._readers:
            reader.is_closing = True
            reader.transport.abort()
        self._readers = []
        await asyncio.sleep(0.1)
        return ""

    def _look(self) -> None:
        if not self._look_every_s:
            return
        asyncio.get_running_loop().call_later(self._look_every_s, self._look)
        for reader in self._readers:
            try:
                data = os.read(reader.file, _READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if data:
                reader.data_received(data)
            elif not reader.is_closing:
                reader.is_closing = True
                self.num_lost += 1

    async def _connect(self, port: int, request: bytes, repeats: bool) -> None:
        loop = asyncio.get_running_loop()
        _, reader = await loop.create_connection(lambda: Reader(self, request, repeats), "127.0.0.1", port)
        self._readers.append(reader)


class Reader(asyncio.Protocol):
    """One client."""

    def __init__(self, sink: Sink, request: bytes, repeats: bool) -> None:
        self._sink = sink
        self._request = request
        self._repeats = repeats
        self._answer = bytearray()
        self.first = b""
        self.has_token = self.is_closing = False

    def connection_made(self, transport: Any) -> None:
        """Ask."""
        self.transport = transport
        self.file = transport.get_extra_info("socket").fileno()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count."""
        sink = self._sink
        sink.num_bytes += len(data)
        if self._repeats:
            self._answer += data
            if is_whole(self._answer):
                sink.num_answers += 1
                self._answer.clear()
                self.transport.write(self._request)
            return
        events = data.count(b"\ndata:") + data.startswith(b"data:")
        sink.num_events += events
        if not self.has_token:
            self.first += data
            self.has_token = self.first.count(b"data:") > 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Note what nobody asked for."""
        if not self.is_closing:
            self._sink.num_lost += 1


def is_whole(answer: bytes | bytearray) -> bool:
    """Tell whether a response has all of its body."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = bytes(answer[:end]).lower()
    at = head.find(b"content-length:")
    if at < 0:
        return answer.endswith(b"0\r\n\r\n")
    return len(answer) - end - 4 >= int(head[at + 15 :].split(b"\r\n", 1)[0])
