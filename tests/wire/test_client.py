"""Responses as a client takes them, and the connections that it keeps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polyslo.errors import ConfigError
from polyslo.wire.client import Origin, end_to_end
from polyslo.wire.server import Exchange
from wire.raw import Recorder, Script, echo, get, origin_at, saying, scripted, serving

OK = b"HTTP/1.1 200 OK\r\n"


async def answered(script: Script, *, method: bytes = b"GET", **times: float) -> Recorder:
    """Return what a sink is told when the origin does `script`."""
    async with scripted(script) as port, origin_at(port) as origin:
        return await get(origin, Recorder(), method=method, **times)


def test_a_request_is_written_whole(run):
    """Host and length are added; GET without a body has no length."""

    async def scenario() -> None:
        seen = b""

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal seen
            seen = await reader.readuntil(b"{}")
            writer.write(OK + b"content-length: 0\r\n\r\n")

        async with scripted(script) as port, origin_at(port) as origin:
            sink = Recorder()
            origin.send(b"POST", b"/v1?a=b", [(b"x-a", b"b")], b"{}", sink, head_timeout_s=9.0, idle_timeout_s=9.0)
            await sink.over.wait()
            host = b"127.0.0.1:%d" % port
            assert seen == b"POST /v1?a=b HTTP/1.1\r\nhost: %b\r\nx-a: b\r\ncontent-length: 2\r\n\r\n{}" % host

    run(scenario())


@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ([OK + b"content-length: 5\r\n\r\nhello"], b"hello"),
        ([OK + b"Content-Length: 5\r\n\r\n", b"he", b"llo"], b"hello"),
        ([OK + b"content-length: 0\r\n\r\n"], b""),
        ([OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nt: 1\r\n\r\n"], b"hello"),
        ([OK + b"transfer-encoding: chunked\r\n\r\n", b"5\r\nhel", b"lo\r", b"\n0\r\n", b"\r\n"], b"hello"),
        ([OK + b"\r\nhello"], b"hello"),
        ([OK + b"\r\n", b"hel", b"lo"], b"hello"),
        ([b"HTTP/1.0 200 OK\r\n\r\nhello"], b"hello"),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], b""),
        ([b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"], b""),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", OK + b"content-length: 5\r\n\r\nhello"], b"hello"),
        ([b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK + b"\r\nhello"], b"hello"),
    ],
)
def test_responses_in_every_framing(run, pieces, body):
    """However a body ends, the sink gets a head, the body without framing, and one end."""
    sink = run(answered(saying(*pieces)))
    assert sink.calls == (["head", "data", "end"] if body else ["head", "end"])
    assert sink.status in (200, 204, 304)
    assert sink.body == body
    assert (b"link", b"x") not in sink.headers


def test_head_has_no_body(run):
    """The length in an answer to HEAD is of a body that is not sent."""
    sink = run(answered(saying(OK + b"content-length: 5\r\n\r\n", then_waits=True), method=b"HEAD"))
    assert sink.calls == ["head", "end"]
    assert (b"content-length", b"5") in sink.headers


def test_header_names_are_lower_cased(run):
    """Whatever the origin writes; repeated fields stay apart."""
    sink = run(answered(saying(OK + b"X-A: 1\r\nx-a: 2\r\nContent-Length: 0\r\n\r\n")))
    assert sink.headers == [(b"x-a", b"1"), (b"x-a", b"2"), (b"content-length", b"0")]


def test_connections_are_kept_and_reused(run):
    """Requests one after the other share a connection; at once, each has its own."""

    async def scenario() -> None:
        async with serving() as listener, origin_at(listener.port) as origin:
            for _ in range(3):
                assert (await get(origin, Recorder(), method=b"POST", body=b"x")).calls == ["head", "data", "end"]
            assert (listener.num_connections, origin.num_connections, origin.num_idle) == (1, 1, 1)
            await asyncio.gather(*(get(origin, Recorder()) for _ in range(3)))
            assert (listener.num_connections, origin.num_connections, origin.num_idle) == (3, 3, 3)

    run(scenario())


def test_the_end_of_a_call_may_send_the_next(run):
    """A sink that sends another request from `on_end` finds the connection free; nothing gets mixed up."""

    async def scenario() -> None:
        async with serving() as listener, origin_at(listener.port) as origin:
            second = Recorder()

            class First(Recorder):
                def on_end(self) -> None:
                    origin.send(b"PUT", b"/", [], b"2", second, head_timeout_s=9.0, idle_timeout_s=9.0)
                    super().on_end()

            assert (await get(origin, First())).body == b"GET /? "
            await second.over.wait()
            assert second.body == b"PUT /? 2"
            assert listener.num_connections == 1

    run(scenario())


def test_the_connection_used_last_is_used_first(run):
    """So that those that are not needed rest long enough to be closed."""

    async def scenario() -> None:
        seen: list[tuple[bytes, Exchange]] = []

        def handler(exchange: Exchange) -> None:
            seen.append((exchange.query, exchange))
            if len(seen) != 1:
                echo(exchange)
            if len(seen) == 2:
                echo(seen[0][1])

        async with serving(handler) as listener, origin_at(listener.port) as origin:
            await asyncio.gather(get(origin, Recorder()), get(origin, Recorder()))
            last = next(reversed(origin._idle))
            await get(origin, Recorder())
            assert next(reversed(origin._idle)) is last
            assert listener.num_connections == 2

    run(scenario())


def test_connections_that_rest_are_closed(run):
    """They are kept for a time and up to a number."""

    async def scenario() -> None:
        async with serving() as listener, origin_at(listener.port, keep_alive_s=0.02, max_idle=2) as origin:
            await asyncio.gather(*(get(origin, Recorder()) for _ in range(4)))
            assert origin.num_idle <= 2
            while origin.num_connections or listener.num_connections:
                await asyncio.sleep(0.005)

    run(scenario())


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"connection: close\r\ncontent-length: 1\r\n\r\nx",
        b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx",
        OK + b"content-length: 1\r\n\r\nxHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
        OK + b"content-length: 1\r\n\r\nxgarbage",
    ],
)
def test_connections_that_are_spent_are_not_reused(run, answer):
    """An answer that closes, or has more behind it than was asked for, is the connection's last."""

    async def scenario() -> None:
        async with scripted(saying(answer, then_waits=True)) as port, origin_at(port) as origin:
            for _ in range(2):
                sink = await get(origin, Recorder())
                assert (sink.calls, sink.body) == (["head", "data", "end"], b"x")
                assert origin.num_idle == 0

    run(scenario())


def test_bytes_that_nobody_asked_for_close_the_connection(run):
    """A response that comes while a connection rests is never given to the next call."""

    async def scenario() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK + b"content-length: 1\r\n\r\nx")
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.write(OK + b"content-length: 6\r\n\r\npoison")
            await reader.read()

        async with scripted(script) as port, origin_at(port) as origin:
            await get(origin, Recorder())
            assert origin.num_idle == 1
            while origin.num_connections:
                await asyncio.sleep(0.005)
            assert (await get(origin, Recorder())).body == b"x"

    run(scenario())


def test_an_aborted_call_is_silent(run):
    """After `abort` the sink hears nothing, even inside its own callback, and the connection is gone."""

    async def scenario() -> None:
        gone = asyncio.Event()

        def handler(exchange: Exchange) -> None:
            exchange.on_gone = gone.set
            exchange.start(200, [])
            exchange.write(b"x")

        class Leaving(Recorder):
            def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
                super().on_head(status, headers)
                call.abort()

        async with serving(handler) as listener, origin_at(listener.port) as origin:
            sink = Leaving()
            call = origin.send(b"GET", b"/", [], b"", sink, head_timeout_s=9.0, idle_timeout_s=9.0)
            await gone.wait()
            await asyncio.sleep(0.01)
            call.abort()
            call.pause()
            call.resume()
            assert sink.calls == ["head"]
            assert origin.num_connections == 0

    run(scenario())


def test_a_call_can_be_aborted_before_it_is_connected(run):
    """Nothing reaches the origin then."""

    async def scenario() -> None:
        async with (
            serving(lambda exchange: pytest.fail(f"{exchange!r}")) as listener,
            origin_at(listener.port) as origin,
        ):
            sink = Recorder()
            origin.send(b"GET", b"/", [], b"", sink, head_timeout_s=9.0, idle_timeout_s=9.0).abort()
            await asyncio.sleep(0.02)
            assert sink.calls == []
            assert origin.num_connections == 0

    run(scenario())


def test_a_paused_call_leaves_bytes_with_the_origin(run):
    """The origin is blocked while the call is paused; then everything comes."""

    async def scenario() -> None:
        blocked = asyncio.Event()
        num_pieces = 2_000

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK + b"content-length: %d\r\n\r\n" % (num_pieces * 10_000))
            for _ in range(num_pieces):
                writer.write(b"x" * 10_000)
                if writer.transport.get_write_buffer_size() > 1_000_000:
                    blocked.set()
                await writer.drain()

        class Pausing(Recorder):
            def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
                super().on_head(status, headers)
                call.pause()

        async with scripted(script) as port, origin_at(port) as origin:
            sink = Pausing()
            call = origin.send(b"GET", b"/", [], b"", sink, head_timeout_s=9.0, idle_timeout_s=9.0)
            while "head" not in sink.calls:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
            held = len(sink.body)
            await asyncio.sleep(0.02)
            assert len(sink.body) == held < num_pieces * 10_000
            call.resume()
            await sink.over.wait()
            assert len(sink.body) == num_pieces * 10_000
            assert sink.calls == ["head", "data", "end"]

    run(scenario())


def test_a_connection_that_ends_a_call_paused_is_kept_reading(run):
    """A sink that pauses in the last piece leaves a connection that works for the next call."""

    async def scenario() -> None:
        class Pausing(Recorder):
            def on_data(self, data: bytes) -> None:
                super().on_data(data)
                call.pause()

        async with serving() as listener, origin_at(listener.port) as origin:
            sink = Pausing()
            call = origin.send(b"GET", b"/", [], b"", sink, head_timeout_s=9.0, idle_timeout_s=9.0)
            await sink.over.wait()
            assert (await get(origin, Recorder())).body == b"GET /? "
            assert listener.num_connections == 1

    run(scenario())


@pytest.mark.parametrize(
    "unfit",
    [
        {"method": b"GET /"},
        {"method": b"G\r\n"},
        {"target": b"/a b"},
        {"target": b"/a\r\nx: y"},
        {"target": b"a"},
        {"headers": [(b"x", b"a\r\nb: c")]},
        {"headers": [(b"x\n", b"a")]},
        {"headers": [(b"Host", b"a")]},
        {"headers": [(b"content-length", b"1")]},
        {"headers": [(b"transfer-encoding", b"chunked")]},
    ],
)
def test_requests_unfit_to_send_are_errors(run, unfit: dict[str, Any]):
    """Nothing can be injected into a request; nothing is sent."""

    async def scenario() -> None:
        async with origin_at(1) as origin:
            fit: dict[str, Any] = {"method": b"GET", "target": b"/", "headers": []}
            with pytest.raises(ValueError, match=r"must|leave it out"):
                origin.send(**(fit | unfit), body=b"", sink=Recorder(), head_timeout_s=9.0, idle_timeout_s=9.0)

    run(scenario())


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:80", "ftp://a", "http://", "http://a/v1", "http://a?b", "http://u:p@a", "http://a:b", "http://a:99999"],
)
def test_urls_that_name_no_origin_are_refused(url):
    """The error says what to write."""
    with pytest.raises(ConfigError, match="write http://host:port"):
        Origin(url)


def test_an_origin_says_what_it_is():
    """Default ports are left out, addresses of version 6 bracketed."""
    assert repr(Origin("http://a:80/")) == "<Origin http://a: 0 open, 0 idle>"
    assert repr(Origin("https://a")) == "<Origin https://a: 0 open, 0 idle>"
    assert repr(Origin("http://[::1]:8000")) == "<Origin http://[::1]:8000: 0 open, 0 idle>"


def test_what_a_proxy_passes_on():
    """The connection's own fields stay behind, and those that it names."""
    headers = [
        (b"connection", b"keep-alive, X-Private"), (b"keep-alive", b"timeout=5"), (b"x-private", b"1"), (b"host", b"a"),
        (b"transfer-encoding", b"chunked"), (b"content-length", b"5"), (b"te", b"trailers"), (b"upgrade", b"h2c"),
        (b"content-type", b"text/event-stream"), (b"x-request-id", b"1"),
    ]  # fmt: skip
    assert end_to_end(headers) == headers[-2:]
