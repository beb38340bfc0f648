"""Streams that go past Python, over real sockets: what clients get, what is counted, and who takes a stream back."""

from __future__ import annotations

import asyncio
import random
import socket
import sys
from contextlib import asynccontextmanager, suppress
from time import monotonic

import pytest
import uvloop
from gateway.test_token_pipe import NO_TOKENS, TOKEN, framed
from wire.raw import visiting

from polyslo.gateway.belief.count_kinds import EVENTS
from polyslo.gateway.relays.bypass import Bypass
from polyslo.gateway.relays.counting import Reckoning
from polyslo.gateway.relays.token_pipe import MOST_READY, PIECE_BYTES
from polyslo.wire.client import Origin
from polyslo.wire.server import listen

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no epoll")
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = framed(NO_TOKENS["a reason to finish"]) + framed(NO_TOKENS["the end of a stream"]) + b"0\r\n\r\n"
IDLE_S = 5.0


class Stream:
    """A request's sink and passenger, as a relay is one: every second chunk that comes alone, it tries to go past."""

    count_kind = EVENTS

    def __init__(self, r, exchange, origin, bypass, idle_s, news):
        self.r = r
        self.seen = self.through = 0  # tokens that went past, chunks that did not
        self.failures, self.is_over = [], False
        self.detour = None
        self.counts = False  # by itself
        self.fails = False
        self._news = news
        self._exchange, self._bypass = exchange, bypass
        self.call = origin.send(b"GET", b"/", [], b"", self, head_timeout_s=IDLE_S, idle_timeout_s=idle_s)
        exchange.on_gone = self._leave
        exchange.on_blocked = lambda blocked: self.call.pause() if blocked else self.call.resume()

    def on_head(self, status, headers):
        """Begin the response."""
        self._exchange.start(status, [])
        self.call.on_chunk = self._on_chunk

    def on_data(self, data):
        """Send a piece."""
        self.through += 1
        self._exchange.write(data)

    def on_end(self):
        """End it."""
        self.is_over = True
        self._exchange.end()

    def on_failure(self, failure):
        """Note it, and cut."""
        self.is_over = True
        self.failures.append(failure.kind)
        self._exchange.abort()

    def _on_chunk(self, data, chunk):
        self.through += 1
        self._exchange.write_framed(chunk)
        if self.through % 2 == 0:
            self._bypass.open_soon(self.call, self._exchange, self)

    @property
    def past(self):
        """Tokens that went past."""
        if self.detour is not None:
            self.detour.settle()
        return self.seen

    def reckoning(self):
        """Begin with the tokens so far; how they are held against deadlines is tested elsewhere."""
        return None if self.counts else Reckoning(self.r, self.through + self.seen, self.through + self.seen, 0.0, 1e9)

    def on_events(self, events, told):
        """Count by itself."""
        if self.fails:
            raise ZeroDivisionError
        assert self.counts
        assert told == events
        self.seen += events
        self._news.append((self.r, events))

    def on_counted(self, tokens, last_s, late_ratio):
        """Hear of what was counted."""
        assert not self.counts
        assert tokens > 0
        assert 0.0 <= monotonic() - last_s < IDLE_S
        self.seen += tokens

    def _leave(self):
        self.is_over = True
        self.call.abort()


class Engine:
    """A server whose streams are written by hand."""

    def __init__(self):
        self.writers = []
        self.gone = asyncio.Event()

    async def serve(self, reader, writer):
        """Begin a stream, and wait until nobody listens."""
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        self.writers.append(writer)
        with suppress(ConnectionError):
            await reader.read()
        self.gone.set()
        writer.close()


class Bench:
    """An engine, a proxy with a bypass and its streams."""

    def __init__(self, engine, bypass, port, streams, told, news):
        self.engine, self.bypass, self.port, self.streams, self.told = engine, bypass, port, streams, told
        self.news = news  # of tokens: streams' numbers and how many

    @property
    def stream(self):
        """The last one."""
        return self.streams[-1]

    async def until(self, holds):
        """Wait until something holds."""
        async with asyncio.timeout(IDLE_S):
            while not holds():
                await asyncio.sleep(0.001)

    @asynccontextmanager
    async def client(self, *, past=True):
        """Begin a stream; with `past` it is past Python when this returns."""
        async with visiting(self.port) as client:
            client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            number = len(self.streams)
            await self.until(lambda: len(self.engine.writers) > number)
            await client.until(b"\r\n\r\n")
            if past:
                await self.go_past(client, number)
            yield client

    async def go_past(self, client, number):
        """Send tokens until they go past, taking them from the client."""
        async with asyncio.timeout(IDLE_S):
            before = self.streams[number].past
            while self.streams[number].past == before:
                self.engine.writers[number].write(framed(TOKEN))
                assert await client.reader.readexactly(len(framed(TOKEN))) == framed(TOKEN)

    async def send(self, *pieces):
        """Have the engine send pieces, each when the one before it has been read."""
        for piece in pieces:
            self.engine.writers[-1].write(piece)
            await asyncio.sleep(0.002)


def run(main, loop=uvloop.new_event_loop, *, idle_s=IDLE_S, counts=False):
    """Run a test with a bench; errors that a loop is told of are in `bench.told`. Streams may count by themselves."""

    async def bench():
        engine, streams, told, news = Engine(), [], [], []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
        origin = Origin(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        bypass = Bypass(asyncio.get_running_loop(), lambda rows, now_s: news.extend(map(tuple, rows.tolist())))

        def begin(exchange):
            streams.append(Stream(len(streams), exchange, origin, bypass, idle_s, news))
            streams[-1].counts = counts

        listener = await listen(begin, "127.0.0.1", 0)
        try:
            async with asyncio.timeout(30.0):
                await main(Bench(engine, bypass, listener.port, streams, told, news))
        finally:
            bypass.close()
            await listener.close(0.0)
            await origin.close()
            server.close()
        assert len(bypass) == 0
        assert bypass.num_unheard == 0
        for stream in streams:
            assert sum(tokens for r, tokens in news if r == stream.r) == stream.past

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(bench())


@pytest.mark.parametrize("counts", [False, True], ids=["counted", "counts"])
@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_tokens_go_past_and_the_rest_comes_back(loop, counts):
    """A hundred tokens are no chunk of Python's; the end of the answer is, and the connection is good for another."""

    async def main(bench):
        async with bench.client() as client:
            seen = bench.stream.through, bench.stream.past
            await bench.send(*[framed(TOKEN)] * 100, framed(TOKEN) * 5)
            assert await client.reader.readexactly(105 * len(framed(TOKEN))) == framed(TOKEN) * 105
            assert (bench.stream.through, bench.stream.past) == (seen[0], seen[1] + 105)
            assert len(bench.bypass) == 1
            await bench.send(LAST)
            assert (await client.until(b"0\r\n\r\n")).count(b"data: ") == 2
            assert bench.stream.is_over
            assert len(bench.bypass) == 0
            assert not bench.engine.gone.is_set()
            client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")  # on the same connections
            await bench.until(lambda: len(bench.streams) == 2)

    run(main, loop, counts=counts)


@pytest.mark.parametrize("payload", NO_TOKENS.values(), ids=NO_TOKENS.keys())
def test_what_is_no_token_comes_back_and_tokens_go_past_again(payload):
    """Python gets it and sends it on; with the tokens after it the stream goes past anew."""

    async def main(bench):
        async with bench.client() as client:
            before = bench.stream.through
            await bench.send(framed(payload))
            assert await client.reader.readexactly(len(framed(payload))) == framed(payload)
            assert bench.stream.through == before + 1
            await bench.go_past(client, 0)

    run(main)


@pytest.mark.parametrize("counts", [False, True], ids=["counted", "counts"])
@pytest.mark.parametrize("seed", range(20))
def test_clients_get_the_same_bytes_however_they_come(seed, counts):
    """Tokens, whatever else streams hold, chunks of all sizes, all cut at any place: the body is the engine's."""
    dice = random.Random(seed)
    kinds = [TOKEN] * 20 + [*NO_TOKENS.values(), b"data: {" + b"x" * 6000 + b"}\n\n"]
    payloads = [dice.choice(kinds) for _ in range(300)]
    sent = b"".join(map(framed, payloads)) + b"0\r\n\r\n"
    pieces, at = [], 0
    while at < len(sent):
        size = dice.choice([len(framed(TOKEN))] * 6 + [1, 3, 50, 500, 5000])
        pieces.append(sent[at : at + size])
        at += size

    async def main(bench):
        async with bench.client(past=False) as client:
            got = asyncio.create_task(whole(client))
            for piece in pieces:
                bench.engine.writers[-1].write(piece)
                await asyncio.sleep(dice.choice((0, 0, 0.0005)))
            assert unframed(await got) == b"".join(payloads)
            assert bench.stream.is_over
            assert bench.stream.failures == []

    run(main, counts=counts)


def test_as_many_bytes_as_are_read_at_once_are_not_the_last_ones():
    """What came with them is read, though nothing more comes that would tell of it."""

    async def main(bench):
        async with bench.client() as client:
            token = framed(TOKEN[:-2].ljust(PIECE_BYTES // 4 - 9) + TOKEN[-2:])  # 7 bytes are the frame's
            assert len(token) == PIECE_BYTES // 4
            before, through = bench.stream.past, bench.stream.through
            bench.engine.writers[0].write(token * 12)
            assert await client.reader.readexactly(12 * len(token)) == token * 12
            assert (bench.stream.past, bench.stream.through) == (before + 12, through)

    run(main)


def test_who_counts_may_change_on_the_way():
    """A stream whose events turn out to be several tokens counts by itself from then on, and the other way round."""

    async def main(bench):
        async with bench.client() as client:
            for counts in (True, False, True):
                bench.stream.detour.settle()
                bench.stream.counts = counts
                bench.bypass.recount()
                before = bench.stream.past
                await bench.send(*[framed(TOKEN)] * 5)
                assert await client.reader.readexactly(5 * len(framed(TOKEN))) == framed(TOKEN) * 5
                assert bench.stream.past == before + 5
                assert len(bench.bypass) == 1

    run(main)


def test_many_streams_at_once_all_get_on():
    """More than one turn of the loop serves are ready together; each of them gets all of its tokens."""

    async def main(bench):
        count = 2 * MOST_READY + 3
        clients = [bench.client() for _ in range(count)]
        open_ones = [await client.__aenter__() for client in clients]
        assert len(bench.bypass) == count
        for writer in bench.engine.writers:
            writer.write(framed(TOKEN) * 2)
        for client in open_ones:
            assert await client.reader.readexactly(2 * len(framed(TOKEN))) == framed(TOKEN) * 2
        assert all(stream.past >= 2 for stream in bench.streams)
        for client in clients:
            await client.__aexit__(None, None, None)

    run(main)


def test_a_client_that_takes_nothing_holds_its_engine_back_and_loses_nothing():
    """What a full socket does not take goes through Python, which stops reading; all of it comes in the end."""

    async def main(bench):
        async with bench.client() as client:
            client.writer.transport.pause_reading()
            token, sent = framed(TOKEN[:-4] + b" " * 3000 + TOKEN[-4:]), 0
            while not bench.stream.call.is_paused:
                bench.engine.writers[0].write(token)
                sent += 1
                await asyncio.sleep(0)
            assert len(bench.bypass) == 0
            client.writer.transport.resume_reading()
            assert await client.reader.readexactly(sent * len(token)) == token * sent
            await bench.until(lambda: not bench.stream.call.is_paused)
            await bench.go_past(client, 0)

    run(main)


def test_an_engine_is_left_when_the_client_leaves():
    """Though nothing of Python's is in between, the engine hears of it at once."""

    async def main(bench):
        async with bench.client():
            pass
        async with asyncio.timeout(1.0):
            await bench.engine.gone.wait()
        assert len(bench.bypass) == 0
        assert bench.stream.failures == []

    run(main)


def test_an_end_that_comes_with_the_last_token_is_seen():
    """Both are there before the stream is read: the token goes past, and the call fails at once."""

    async def main(bench):
        async with bench.client() as client:
            with bench.engine.writers[0].transport.get_extra_info("socket").dup() as engine:
                engine.sendall(framed(TOKEN))
                engine.shutdown(socket.SHUT_WR)
            began_s, past = monotonic(), bench.stream.past
            await bench.until(lambda: bench.stream.is_over)
            assert monotonic() - began_s < IDLE_S / 2
            assert bench.stream.failures == ["reset"]
            assert bench.stream.past == past + 1
            assert await client.rest() == framed(TOKEN)

    run(main)


@pytest.mark.parametrize("how", ["close", "abort"])
def test_an_engine_that_ends_in_the_middle_is_seen(how):
    """Closed or reset: the call fails, and the client sees a cut response."""

    async def main(bench):
        async with bench.client() as client:
            getattr(bench.engine.writers[0].transport, how)()
            await bench.until(lambda: bench.stream.is_over)
            assert bench.stream.failures == ["reset"]
            assert await client.rest() == b""
            assert len(bench.bypass) == 0

    run(main)


def test_silence_is_measured_from_the_last_token_that_went_past():
    """An engine that speaks every now and then is heard; one that falls silent is given up."""

    async def main(bench):
        async with bench.client() as client:
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            while loop.time() < began_s + 1.5:
                await bench.send(framed(TOKEN))
                await asyncio.sleep(0.05)
            assert bench.stream.failures == []
            assert len(bench.bypass) == 1
            await client.reader.read(1 << 20)
            await bench.until(lambda: bench.stream.is_over)
            assert bench.stream.failures == ["timeout"]

    run(main, idle_s=0.7)


def test_who_fails_to_take_note_of_tokens_loses_the_stream():
    """The error is reported, engine and client are told once, others go on."""

    async def main(bench):
        async with bench.client(), bench.client() as other:
            bench.streams[0].fails = True
            bench.engine.writers[0].write(framed(TOKEN))
            await bench.until(lambda: bench.streams[0].is_over)
            assert bench.streams[0].failures == ["reset"]
            assert [type(context["exception"]) for context in bench.told] == [ZeroDivisionError]
            await bench.send(framed(TOKEN))
            assert await other.reader.readexactly(len(framed(TOKEN))) == framed(TOKEN)

    run(main, counts=True)


def test_streams_go_on_where_news_of_them_is_not_taken():
    """The error is reported; what was counted is the stream's all the same."""

    async def main(bench):
        async with bench.client() as client:
            before, saw_many = bench.stream.past, bench.bypass._saw_many

            def fail(rows, now_s):
                saw_many(rows, now_s)
                raise ZeroDivisionError

            bench.bypass._saw_many = fail
            await bench.send(*[framed(TOKEN)] * 3)
            assert await client.reader.readexactly(3 * len(framed(TOKEN))) == framed(TOKEN) * 3
            assert bench.stream.past == before + 3
            assert {type(context["exception"]) for context in bench.told} == {ZeroDivisionError}

    run(main)


def test_a_paused_call_is_not_read():
    """Pausing takes the stream back; what comes meanwhile waits with the peer, and is whole after it."""

    async def main(bench):
        async with bench.client() as client:
            bench.stream.call.pause()
            assert len(bench.bypass) == 0
            await bench.send(framed(TOKEN))
            past, through = bench.stream.past, bench.stream.through
            await asyncio.sleep(0.02)
            assert (bench.stream.past, bench.stream.through) == (past, through)
            bench.stream.call.resume()
            assert await client.reader.readexactly(len(framed(TOKEN))) == framed(TOKEN)

    run(main)


def test_streams_go_on_through_python_when_the_bypass_closes():
    """As at the end of a gateway's life, while streams have their grace."""

    async def main(bench):
        async with bench.client() as client:
            bench.bypass.close()
            await bench.send(*[framed(TOKEN)] * 9, LAST)  # by which it would go past again
            assert (await client.until(b"0\r\n\r\n")).startswith(framed(TOKEN) * 9)
            assert bench.told == []
            assert bench.stream.is_over

    run(main)


async def whole(client) -> bytes:
    """Read a chunked body to its end."""
    data = bytearray()
    while not data.endswith(b"\r\n0\r\n\r\n"):
        data += await client.reader.read(65536)
    return bytes(data)


def unframed(data: bytes) -> bytes:
    """Return a chunked body without its framing."""
    body, at = bytearray(), 0
    while True:
        line = data.index(b"\r\n", at)
        size = int(data[at:line].partition(b";")[0], 16)
        if size == 0:
            return bytes(body)
        body += data[line + 2 : line + 2 + size]
        at = line + size + 4
