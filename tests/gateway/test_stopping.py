"""Stopping a gateway: every part of it, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket

import pytest

from polyslo.gateway.app import Gateway
from polyslo.gateway.config.gateway import parse_config
from polyslo.gateway.stopping import stop_all

NOWHERE = {"name": "m", "endpoints": [{"url": "http://127.0.0.1:9"}]}
PARTS = {
    "the front door": lambda gateway: (gateway.front, "drain"),
    "the page": lambda gateway: (gateway.management, "stop"),
    "files that are read again": lambda gateway: (gateway.changes.reloads, "stop"),
    "instances that leave": lambda gateway: (gateway.changes.memberships["m"], "stop"),
    "the port": lambda gateway: (gateway.listener, "close"),
    "the other port": lambda gateway: (gateway.management_listener, "close"),
    "tokens' way past Python": lambda gateway: (gateway.models["m"].bypass, "close"),
    "looks at engines": lambda gateway: (gateway._watches["m"]._each[0], "stop"),
    "engines' metrics": lambda gateway: (gateway._watches["m"]._each[1], "stop"),
    "a model": lambda gateway: (gateway.models["m"], "stop"),
    "connections to engines": lambda gateway: (gateway.origins, "stop"),
    "a journal": lambda gateway: (gateway.journals._writers[0], "stop"),
    "counts": lambda gateway: (gateway.tally, "close"),
    "traces": lambda gateway: (gateway.traces, "stop"),
}


def failing(owner, name, error):
    """Let a part stop, and say that it could not."""
    stop = getattr(owner, name)

    async def fail_later(stopping):
        await stopping
        raise error

    def fail(*args):
        stopping = stop(*args)
        if inspect.isawaitable(stopping):
            return fail_later(stopping)
        raise error

    setattr(owner, name, fail)


@pytest.mark.parametrize("parts", [*([part] for part in PARTS), list(PARTS)], ids=[*PARTS, "all of them"])
def test_whatever_part_fails_to_stop_nothing_is_left(parts, tmp_path):
    """No timer, no task, no port; and the first error is told."""
    errors = [OSError(part) for part in parts]
    server = {"port": 0, "metrics_port": 0}
    table = {"models": [NOWHERE], "server": server, "journal": {"file": str(tmp_path / "journal")}}

    async def main():
        loop = asyncio.get_running_loop()
        gateway = Gateway(parse_config(table, "test.toml"), str(tmp_path / "test.toml"))
        await gateway.start()
        ports = gateway.listener.port, gateway.management_listener.port
        for part, error in zip(parts, errors, strict=True):
            failing(*PARTS[part](gateway), error)
        with pytest.raises(OSError, match=parts[0]) as told:
            await gateway.stop()
        assert told.value is errors[0]
        assert [handle for handle in loop._scheduled if not handle.cancelled()] == []
        assert asyncio.all_tasks() == {asyncio.current_task()}
        for port in ports:
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", port)) != 0

    with asyncio.Runner() as runner:  # asyncio's own loop, as its timers can be seen
        runner.run(main())


def test_all_are_stopped_in_order_and_later_errors_are_logged(caplog):
    """Those that take their time and those that don't; what a second one says is not lost."""
    stopped = []

    async def slow():
        await asyncio.sleep(0)
        stopped.append("slow")
        raise ValueError("first")

    def quick():
        stopped.append("quick")
        raise KeyError("second")

    with caplog.at_level(logging.ERROR, "polyslo"), pytest.raises(ValueError, match="first"):
        asyncio.run(stop_all([slow, quick, lambda: stopped.append("last")]))
    assert stopped == ["slow", "quick", "last"]
    assert [record.exc_info[0] for record in caplog.records] == [KeyError]


def test_one_that_is_cancelled_stops_the_rest():
    """Whoever loses patience with the grace of streams must not find timers running."""
    stopped = []

    async def main():
        stopping = asyncio.create_task(stop_all([asyncio.Event().wait, lambda: stopped.append("rest")]))
        await asyncio.sleep(0)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping

    asyncio.run(main())
    assert stopped == ["rest"]
