"""Everything on sockets runs on both event loops: asyncio's own and the one used in production."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

HANG_S = 60.0  # only so that a hang fails instead of hanging, however busy the machine


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine to its end; what the loop's exception handler is told fails the test."""

    def run_on(main: Coroutine[Any, Any, Any]) -> Any:
        told: list[dict[str, Any]] = []

        async def watched() -> Any:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
            async with asyncio.timeout(HANG_S):
                return await main

        with asyncio.Runner(loop_factory=request.param) as runner:
            result = runner.run(watched())
        assert told == []
        return result

    return run_on
