"""What comes through the gateway is what the engine sent, to the byte: every route, framing and place to cut it."""

from __future__ import annotations

import asyncio
import random
import re
from contextlib import asynccontextmanager

import orjson
import pytest
from gateway_bench import CHAT, COMPLETIONS, MODEL, Bench, chat, completion, run

OURS = {b"connection", b"content-length", b"transfer-encoding", b"x-request-id"}
FIELDS = [
    (b"date", b"Thu, 01 Jan 2026 00:00:00 GMT"),
    (b"server", b"uvicorn"),
    (b"set-cookie", b"a=1"),
    (b"set-cookie", b"b=2; Path=/"),
    (b"x-engine", "caf\u00e9 \u2014 ".encode() + b"\xff"),
]
TEXTS = ("", " tale", "\u00e9", "\U0001f600", "\u4e2d\u6587", 'a "quoted"\n line', "data: [DONE]", "\\", "x" * 2000)
MOST_PIECES = 150  # each is a turn of the loop
FRAMINGS = ("chunked", "measured", "closed")
ROUTES = [
    (b"POST", CHAT, 200),
    (b"POST", COMPLETIONS, 200),
    (b"POST", CHAT, 400),
    (b"POST", COMPLETIONS, 422),
    (b"POST", b"/v1/embeddings", 200),
    (b"POST", b"/v1/audio/transcriptions", 418),
    (b"POST", b"/tokenize", 200),
    (b"POST", b"/detokenize", 404),
    (b"GET", b"/v1/models", 200),
    (b"DELETE", b"/v1/files/file-1", 200),
]


class Engine:
    """A raw server that answers every request with one response, cut wherever chance has it."""

    def __init__(self, seed, status, content_type, body, framing):
        self._dice = random.Random(seed)
        self._status, self._framing = status, framing
        self.body = body
        self.fields = [(b"content-type", content_type), *FIELDS]

    async def serve(self, reader, writer):
        """Answer until the other side leaves."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                response = self._response()
                for piece in self._cut(response, max(self._dice.choice((1, 7, 300)), len(response) // MOST_PIECES)):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if self._framing == "closed":
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    def _response(self):
        fields = [*self.fields]
        body = self.body
        if self._framing == "chunked":
            fields.append((b"transfer-encoding", b"chunked"))
            body = b"".join(map(self._chunk, self._cut(body, self._dice.choice((5, 200, 4000))))) + b"0\r\n\r\n"
        elif self._framing == "measured":
            fields.append((b"content-length", b"%d" % len(body)))
        return b"HTTP/1.1 %d \r\n%b\r\n%b" % (self._status, b"".join(b"%b: %b\r\n" % f for f in fields), body)

    def _chunk(self, data):
        form = self._dice.choice((b"%x", b"%X", b"00%x", b"%x;name=value"))
        return form % len(data) + b"\r\n" + data + b"\r\n"

    def _cut(self, data, size):
        at = 0
        while at < len(data):
            step = self._dice.randint(1, size)
            yield data[at : at + step]
            at += step


def stream_of(dice, is_chat):
    """Return the body of a stream: chunks of all kinds of text, comments, usage, the end."""
    end = dice.choice((b"\n\n", b"\r\n\r\n", b"\r\r"))
    events = [b": ping" + end]
    for _ in range(dice.randint(1, 12)):
        text = dice.choice(TEXTS)
        choice = {"index": 0, "delta": {"content": text}} if is_chat else {"index": 0, "text": text}
        events.append(b"data: " + orjson.dumps({"id": "x", "choices": [choice]}) + end)
    usage = {"id": "x", "choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 7, "total_tokens": 11}}
    events.append(b"data: " + orjson.dumps(usage) + end + b"data: [DONE]" + end)
    return b"".join(events)


@asynccontextmanager
async def behind_gateway(engine):
    """Serve an engine through a gateway."""
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with Bench(0, models=[{"name": MODEL, "endpoints": [{"url": url}]}]) as bench:
        yield bench
        await bench.settle()
    server.close()
    await server.wait_closed()


async def check(bench, engine, status, method, path, body):
    """Ask, and compare what came with what was sent."""
    reply = await bench.ask(path, body, [(b"x-request-id", b"same")], method=method)
    assert (reply.status, reply.failure) == (status, None)
    assert reply.body == engine.body
    assert [field for field in reply.headers if field[0] not in OURS] == engine.fields


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("is_chat", [True, False], ids=["chat", "completion"])
def test_a_stream_is_passed_on_to_the_byte(is_chat, seed, framing):
    """Text in any language, comments, line ends and chunk sizes of every kind, cut anywhere; and its usage is read."""

    async def main():
        body = stream_of(random.Random(seed), is_chat)
        engine = Engine(seed, 200, b"text/event-stream; charset=utf-8", body, framing)
        async with behind_gateway(engine) as bench:
            path, ask = (CHAT, chat) if is_chat else (COMPLETIONS, completion)
            for _ in range(3):
                await check(bench, engine, 200, b"POST", path, ask(7, stream=True))
            assert bench.gateway.boards[MODEL].num_tokens == 3 * 7

    run(main)


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize(("method", "path", "status"), ROUTES, ids=[f"{p.decode()}-{s}" for _, p, s in ROUTES])
def test_any_other_answer_is_passed_on_to_the_byte(method, path, status, framing):
    """Whole answers, errors that are the engine's to give, routes that no decision is made about, bytes of any kind."""

    async def main():
        dice = random.Random(path + framing.encode())
        body = dice.randbytes(dice.choice((1, 500, 300_000)))
        engine = Engine(status, status, b"application/octet-stream", body, framing)
        async with behind_gateway(engine) as bench:
            asked = None if method != b"POST" else (chat if path == CHAT else completion)(7)
            for _ in range(3):
                await check(bench, engine, status, method, path, asked)

    run(main)
