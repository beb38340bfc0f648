"""How a call fails: once, with a kind that says what may be done about it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from polyslo.wire.client import Origin
from polyslo.wire.server import Exchange
from wire.raw import Recorder, Script, get, origin_at, saying, scripted, serving

OK = b"HTTP/1.1 200 OK\r\n"
SOON_S = 0.03


async def failed(script: Script, **times: float) -> Recorder:
    """Return what a sink is told when the origin does `script`, which is to fail."""
    async with scripted(script) as port, origin_at(port) as origin:
        sink = await get(origin, Recorder(), **times)
        assert origin.num_idle == 0
        assert sink.failure is not None
        assert sink.calls[-1] == "failure"
        assert sink.failure.started == ("head" in sink.calls)
        return sink


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        OK + b"content-length: -5\r\n\r\n",
        OK + b"content-length : 5\r\n\r\nhello",
        OK + b"transfer-encoding: gzip\r\n\r\nhello",
        OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"a: b\r\n c\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: a\r\n\r\n",
        OK + b"a: " + b"b" * 70_000 + b"\r\n\r\n",
        OK + b"a: b\r\n" * 20_000 + b"\r\nbody",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000,
        OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_malformed_responses_are_failures(run, answer):
    """A response that can be read two ways, or whose head has no end, is not read."""
    sink = run(failed(saying(answer, then_waits=True)))
    assert sink.failure.kind == "malformed"
    assert sink.calls == ["failure"]


@pytest.mark.parametrize(
    "filler", [b"5;" + b"a" * 70_000, b"0\r\nt: " + b"a" * 70_000, b"0\r\n" + b"t: a\r\n" * 20_000]
)
def test_framing_without_end_is_malformed(run, filler):
    """Neither an extension nor a trailer is collected for ever."""
    chunks = [filler[i : i + 20_000] for i in range(0, len(filler), 20_000)]
    sink = run(failed(saying(OK + b"transfer-encoding: chunked\r\n\r\n", *chunks, then_waits=True)))
    assert (sink.failure.kind, sink.calls) == ("malformed", ["head", "failure"])


def test_a_malformed_chunk_fails_after_what_was_good(run):
    """The pieces before it were passed on."""
    sink = run(failed(saying(OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\nx\r\n", then_waits=True)))
    assert (sink.failure.kind, sink.body, sink.calls) == ("malformed", b"he", ["head", "data", "failure"])


@pytest.mark.parametrize(
    ("answer", "started"),
    [
        (b"", False),
        (b"HTTP/1.1 200", False),
        (b"HTTP/1.1 100 Continue\r\n\r\n", False),
        (OK + b"content-length: 5\r\n\r\n", True),
        (OK + b"content-length: 5\r\n\r\nhell", True),
        (OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", True),
    ],
)
def test_a_response_cut_short_is_a_reset(run, answer, started):
    """Only a body that nothing measures may end with its connection."""
    sink = run(failed(saying(answer)))
    assert (sink.failure.kind, sink.failure.started) == ("reset", started)


def test_a_reset_in_an_unmeasured_body_is_a_failure(run):
    """A connection that breaks is no end."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"\r\nhello")
        await asyncio.sleep(0.01)
        linger_not = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)

    sink = run(failed(script))
    assert (sink.failure.kind, sink.body) == ("reset", b"hello")


def test_an_origin_that_is_not_there_fails_to_connect(run):
    """One whose name does not exist is told apart."""

    async def scenario() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
            async with origin_at(taken.getsockname()[1]) as origin:
                sink = await get(origin, Recorder())
                assert sink.failure.kind == "connect"
        origin = Origin(f"http://{'a' * 64}.invalid")
        assert (await get(origin, Recorder())).failure.kind == "name"
        await origin.close()

    run(scenario())


def test_an_origin_that_does_not_accept_fails_to_connect(run):
    """Connecting has a time of its own."""

    async def scenario() -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            waiting = [socket.socket() for _ in range(4)]
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
            async with origin_at(port, connect_timeout_s=SOON_S) as origin:
                sink = await get(origin, Recorder())
                assert (sink.failure.kind, sink.failure.started) == ("connect", False)
            for one in waiting:
                one.close()

    run(scenario())


def test_a_head_that_does_not_come_is_a_timeout(run):
    """Neither silence nor an unfinished or interim head stops the clock."""
    for answer in (b"", OK, b"HTTP/1.1 100 Continue\r\n\r\n"):
        sink = run(failed(saying(answer, then_waits=True), head_timeout_s=SOON_S))
        assert (sink.failure.kind, sink.failure.started) == ("timeout", False)


def test_silence_in_a_body_is_a_timeout(run):
    """The time between pieces is bounded."""
    sink = run(failed(saying(OK + b"content-length: 5\r\n\r\nhe", then_waits=True), idle_timeout_s=SOON_S))
    assert (sink.failure.kind, sink.failure.started, sink.body) == ("timeout", True, b"he")


def test_a_slow_body_is_no_timeout(run):
    """Pieces that keep coming may take many times the idle time together."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"content-length: 40\r\n\r\n")
        for _ in range(40):
            writer.write(b"x")
            await asyncio.sleep(0.01)

    async def scenario() -> Recorder:
        async with scripted(script) as port, origin_at(port) as origin:
            return await get(origin, Recorder(), idle_timeout_s=0.2)

    assert run(scenario()).calls == ["head", "data", "end"]


def test_a_paused_call_does_not_time_out(run):
    """While a call is paused the silence is its own doing."""

    async def scenario() -> None:
        class Pausing(Recorder):
            def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
                super().on_head(status, headers)
                call.pause()

        script = saying(OK + b"content-length: 5\r\n\r\n", b"hello", then_waits=True)
        async with scripted(script) as port, origin_at(port) as origin:
            sink = Pausing()
            call = origin.send(b"GET", b"/", [], b"", sink, head_timeout_s=9.0, idle_timeout_s=SOON_S)
            await asyncio.sleep(4 * SOON_S)
            assert sink.failure is None
            call.resume()
            await sink.over.wait()
            assert (sink.body, sink.failure) == (b"hello", None)

    run(scenario())


def test_a_stale_connection_is_tried_once_more(run):
    """A kept connection that closes under a request, before any byte of the answer, costs the caller nothing."""

    async def scenario() -> None:
        served: list[int] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.append(0)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK + b"content-length: 1\r\n\r\nx")
            served[-1] += 1
            await reader.readuntil(b"\r\n\r\n")  # and closes on the second request

        async with scripted(script) as port, origin_at(port) as origin:
            for _ in range(3):
                sink = await get(origin, Recorder())
                assert (sink.calls, sink.body) == (["head", "data", "end"], b"x")
        assert served == [1, 1, 1]

    run(scenario())


def test_a_fresh_connection_that_closes_is_not_tried_again(run):
    """A request that kills its connection twice is not sent a third time."""

    async def scenario() -> None:
        num_requests = 0

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal num_requests
            await reader.readuntil(b"\r\n\r\n")
            num_requests += 1
            if num_requests == 1:
                writer.write(OK + b"content-length: 0\r\n\r\n")
                await reader.readuntil(b"\r\n\r\n")
                num_requests += 1

        async with scripted(script) as port, origin_at(port) as origin:
            await get(origin, Recorder())
            sink = await get(origin, Recorder())
            assert sink.calls == ["failure"]
            assert (sink.failure.kind, num_requests) == ("reset", 3)

    run(scenario())


def test_a_kept_connection_that_dies_mid_answer_is_not_tried_again(run):
    """Once a byte has come the request was seen."""

    async def scenario() -> None:
        num_connections = 0

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal num_connections
            num_connections += 1
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK + b"content-length: 0\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 ")

        async with scripted(script) as port, origin_at(port) as origin:
            await get(origin, Recorder())
            sink = await get(origin, Recorder())
            assert (sink.calls, sink.failure.kind, num_connections) == (["failure"], "reset", 1)

    run(scenario())


@pytest.mark.parametrize("step", ["head", "data", "end", "failure"])
def test_a_sink_that_fails_is_reported(step):
    """The loop's exception handler is told; the call ends and its connection is not reused mid-response."""
    told: list[str] = []

    class Failing(Recorder):
        def note(self, name: str) -> None:
            if name == step:
                self.calls.append(name)
                self.over.set()
                raise KeyError("bug")

        def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
            self.note("head")
            super().on_head(status, headers)

        def on_data(self, data: bytes) -> None:
            self.note("data")
            super().on_data(data)

        def on_end(self) -> None:
            self.note("end")
            super().on_end()

        def on_failure(self, failure: object) -> None:
            self.note("failure")
            super().on_failure(failure)  # type: ignore[arg-type]

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
        short = 6 if step == "failure" else 5
        async with scripted(saying(OK + b"content-length: %d\r\n\r\nhello" % short)) as port, origin_at(port) as origin:
            sink = await get(origin, Failing())
            await asyncio.sleep(0)
            assert origin.num_idle == (1 if step == "end" else 0)
            assert sink.calls[-1] == (step if step in ("end", "failure") else "failure")

    asyncio.run(scenario())
    assert len(told) == 1


def test_closing_an_origin_fails_what_is_under_way(run):
    """Calls that stream, wait or connect fail once, and so does what is sent later."""

    async def scenario() -> None:
        def handler(exchange: Exchange) -> None:
            if exchange.method == b"PUT":
                exchange.start(200, [])
                exchange.write(b"x")

        async with serving(handler) as listener, origin_at(listener.port) as origin:
            times = {"head_timeout_s": 9.0, "idle_timeout_s": 9.0}
            streaming, waiting, connecting, late = (Recorder() for _ in range(4))
            origin.send(b"PUT", b"/", [], b"", streaming, **times)
            origin.send(b"POST", b"/", [], b"", waiting, **times)
            await streaming.came.wait()
            while origin.num_connections < 2:
                await asyncio.sleep(0.001)
            origin.send(b"POST", b"/", [], b"", connecting, **times)
            await origin.close()
            origin.send(b"POST", b"/", [], b"", late, **times)
            assert late.calls == []
            await late.over.wait()
            assert streaming.calls == ["head", "data", "failure"]
            assert [sink.failure.kind for sink in (streaming, waiting, connecting, late)] == (
                ["reset", "reset", "connect", "connect"]
            )
            assert origin.num_connections == 0
            while listener.num_connections:
                await asyncio.sleep(0.001)

    run(scenario())
