"""The engines of the benchmark: one process that answers at several ports, with as little work as can be.

The end of a request's prompt says how it is answered: `whole` with a small JSON body, `brief` with a stream of one
token, `paced:S` with an endless stream of a token every S seconds, `flood` with one as fast as it is taken. The
streams of a port get their tokens together, as an engine's batch does; the ports take turns within the pace.
"""

from __future__ import annotations

import asyncio
import json
import re
from multiprocessing.connection import Connection

import httptools
import uvloop

MODEL = "bench"
WHOLE, BRIEF, FLOOD = "whole", "brief", "flood"
PIECES_A_TURN = 16  # of a flood, in one write
_ANSWERED_BY = re.compile(rb"@([a-z]+)(?::([0-9.]+))?@")  # some gateways write bodies anew, and drop fields


def body_for(answer: str) -> bytes:
    """Return a chat request that is answered so."""
    stream = {} if answer == WHOLE else {"stream": True}
    messages = [{"role": "user", "content": "Tell me a story about a gateway. " * 8 + f"@{answer}@"}]
    return json.dumps({"model": MODEL, "messages": messages, "max_tokens": 4096, **stream}).encode()


def run_source(pipe: Connection, num_ports: int) -> None:
    """Serve until killed; the ports go through `pipe`."""

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        ports = []
        for index in range(num_ports):
            engine = Engine(loop, index / num_ports)
            server = await loop.create_server(lambda engine=engine: Conversation(engine), "127.0.0.1", 0, backlog=4096)
            ports.append(server.sockets[0].getsockname()[1])
        pipe.send(ports)
        await asyncio.Event().wait()

    uvloop.run(serve())


class Engine:
    """The paced streams of one port, by pace."""

    def __init__(self, loop: asyncio.AbstractEventLoop, phase: float) -> None:
        self._loop = loop
        self._phase = phase
        self._batches: dict[float, set[asyncio.Transport]] = {}

    def join(self, transport: asyncio.Transport, pace_s: float) -> None:
        """Give a stream its tokens from now on."""
        batch = self._batches.get(pace_s)
        if batch is None:
            batch = self._batches[pace_s] = set()
            now_s = self._loop.time()
            first_s = (now_s // pace_s + 1 + self._phase) * pace_s
            self._loop.call_at(first_s, self._step, batch, pace_s, first_s)
        batch.add(transport)

    def leave(self, transport: asyncio.Transport) -> None:
        """Give it no more."""
        for batch in self._batches.values():
            batch.discard(transport)

    def _step(self, batch: set[asyncio.Transport], pace_s: float, due_s: float) -> None:
        for transport in list(batch):
            transport.write(_CHUNK)
        self._loop.call_at(due_s + pace_s, self._step, batch, pace_s, due_s + pace_s)


class Conversation(asyncio.Protocol):
    """One connection of the gateway."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._parser = httptools.HttpRequestParser(self)
        self._url, self._body = b"", b""
        self._is_flooding = self._is_blocked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take a request, or more of it; what is none, HTTP/2 among it, ends the connection."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop its stream."""
        self._engine.leave(self._transport)
        self._is_flooding = False

    def pause_writing(self) -> None:
        """Stop flooding."""
        self._is_blocked = True

    def resume_writing(self) -> None:
        """Flood on."""
        self._is_blocked = False
        if self._is_flooding:
            asyncio.get_running_loop().call_soon(self._flood)

    def on_url(self, url: bytes) -> None:
        """Note it."""
        self._url += url

    def on_body(self, body: bytes) -> None:
        """Note it."""
        self._body += body

    def on_message_complete(self) -> None:
        """Answer."""
        url, body, self._url, self._body = self._url, self._body, b"", b""
        if not url.endswith(b"/completions"):
            self._transport.write(_FACTS)
            return
        found = _ANSWERED_BY.search(body)
        kind, pace = found.groups() if found else (b"whole", None)
        if kind == b"whole":
            self._transport.write(_WHOLE)
            return
        self._transport.write(_OPENING)
        if kind == b"brief":
            self._transport.write(_CHUNK + _LAST)
        elif kind == b"flood":
            self._is_flooding = True
            self._flood()
        else:
            self._transport.write(_CHUNK)
            self._engine.join(self._transport, float(pace))

    def _flood(self) -> None:
        if self._is_flooding and not self._is_blocked:
            self._transport.write(_FLOOD)
            asyncio.get_running_loop().call_soon(self._flood)


def _event(**more: object) -> bytes:
    facts = {"id": "chatcmpl-5f8e1c7c2c9b4a0e", "object": "chat.completion.chunk", "created": 1_700_000_000,
             "model": MODEL, **more}  # fmt: skip
    return b"data: " + json.dumps(facts, separators=(",", ":")).encode() + b"\n\n"


def _choice(reason: str | None, **delta: str) -> list[dict[str, object]]:
    return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason, "token_ids": None}]


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _json(body: object) -> bytes:
    raw = json.dumps(body, separators=(",", ":")).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(raw) + raw


_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
_USAGE = {"prompt_tokens": 66, "total_tokens": 67, "completion_tokens": 1}
_OPENING = _STREAM_HEAD + _framed(_event(choices=_choice(None, role="assistant", content="")))
_CHUNK = _framed(_event(choices=_choice(None, content=" gateway")))
_FLOOD = _CHUNK * PIECES_A_TURN
_LAST = _framed(_event(choices=_choice("stop")) + b"data: [DONE]\n\n") + b"0\r\n\r\n"
_WHOLE = _json({
    "id": "chatcmpl-5f8e1c7c2c9b4a0e", "object": "chat.completion", "created": 1_700_000_000, "model": MODEL,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Once upon a time there was a gateway."},
                 "logprobs": None, "finish_reason": "stop"}], "usage": _USAGE,
})  # fmt: skip
_FACTS = _json({
    "object": "list", "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "vllm", "root": MODEL}],
    "status": "ok", "model_path": MODEL, "served_model_name": MODEL, "is_generation": True, "version": "0.32.0",
})  # fmt: skip
