"""One request, one whole response."""

from __future__ import annotations

import asyncio

import pytest

from polyslo.wire.fetch import FetchError, fetch
from polyslo.wire.server import Exchange
from wire.raw import origin_at, serving


def test_a_response_is_whole(run):
    """Status, headers and the body in one value."""

    async def scenario() -> None:
        def handler(exchange: Exchange) -> None:
            exchange.start(201, [(b"x-a", b"b")])
            exchange.write(exchange.body)
            exchange.write(exchange.header(b"x-c") or b"")
            exchange.end()

        async with serving(handler) as listener, origin_at(listener.port) as origin:
            response = await fetch(origin, b"POST", b"/", [(b"x-c", b"d")], b"body-", timeout_s=9.0, max_body_bytes=100)
            assert (response.status, response.body, response.header(b"x-a")) == (201, b"body-d", b"b")
            assert response.header(b"x-none") is None
            assert origin.num_idle == 1

    run(scenario())


def test_a_body_over_the_bound_is_an_error(run):
    """It is not read on."""

    async def scenario() -> None:
        async with serving(lambda e: e.respond(200, [], b"x" * 101)) as listener, origin_at(listener.port) as origin:
            assert len((await fetch(origin, b"GET", b"/", timeout_s=9.0, max_body_bytes=101)).body) == 101
            with pytest.raises(FetchError, match="malformed: its body has more than 100 bytes"):
                await fetch(origin, b"GET", b"/", timeout_s=9.0, max_body_bytes=100)

    run(scenario())


def test_no_whole_response_in_time_is_an_error(run):
    """A body that drips is bounded as a whole; the connection is closed."""

    async def scenario() -> None:
        gone = asyncio.Event()

        def handler(exchange: Exchange) -> None:
            exchange.on_gone = gone.set
            exchange.start(200, [])

        async with serving(handler) as listener, origin_at(listener.port) as origin:
            with pytest.raises(FetchError, match="timeout"):
                await fetch(origin, b"GET", b"/", timeout_s=0.03)
            await gone.wait()
            assert origin.num_idle == 0

    run(scenario())


def test_no_origin_is_an_error(run):
    """The failure's kind says that it is another thing than a slow answer."""

    async def scenario() -> None:
        async with serving() as listener:
            port = listener.port
        async with origin_at(port) as origin:
            with pytest.raises(FetchError) as caught:
                await fetch(origin, b"GET", b"/", timeout_s=9.0)
            assert caught.value.failure.kind == "connect"

    run(scenario())


def test_cancelling_closes_the_connection(run):
    """A caller that gives up leaves no request behind."""

    async def scenario() -> None:
        came, gone = asyncio.Event(), asyncio.Event()

        def handler(exchange: Exchange) -> None:
            exchange.on_gone = gone.set
            came.set()

        async with serving(handler) as listener, origin_at(listener.port) as origin:
            task = asyncio.ensure_future(fetch(origin, b"GET", b"/", timeout_s=9.0))
            await came.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await gone.wait()

    run(scenario())
