"""KV between emulated engines: what one keeps for others, and what it fetches from them.

A fetch claims the KV at the engine that keeps it (`POST /kv_transfer` there), takes as long as the simulator's transfer
of so many tokens, and then tells that it is done, which frees it. KV that nobody fetches is freed after `keep_s`, as
vLLM's is (`VLLM_NIXL_ABORT_REQUEST_TIMEOUT`); after that, or under a name that was never given, a claim is an error. A
fetch that is given up frees the KV at once. The bytes themselves are not there to be moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import orjson

from polyslo.engines.clock import Clock, Timer
from polyslo.engines.emulated_engine import EmulatedEngine
from polyslo.engines.remote_kv import RemoteKv
from polyslo.errors import ConfigError
from polyslo.wire.client import Origin
from polyslo.wire.fetch import FetchError, fetch

PATH = b"/kv_transfer"
KEEP_S = 480.0
ANSWER_TIMEOUT_S = 5.0  # wall time
MOST_ORIGINS = 64
_JSON = [(b"content-type", b"application/json")]


class KvLostError(Exception):
    """The KV that was to be fetched is not there (any more)."""


class KvTransfers:
    """One engine's side of all its transfers; `address()` is where others ask for what it keeps."""

    def __init__(
        self, engine: EmulatedEngine, clock: Clock, address: Callable[[], tuple[str, int]], *, keep_s: float = KEEP_S
    ) -> None:
        self.engine_id = uuid4().hex
        self._engine = engine
        self._clock = clock
        self._address = address
        self._keep_s = keep_s
        self._kept: dict[str, tuple[int, Timer]] = {}
        self._claimed: set[str] = set()
        self._origins: dict[tuple[str, int], Origin] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def num_kept(self) -> int:
        """Prefilled requests whose KV is kept."""
        return len(self._kept)

    def keep(self, num_tokens: int) -> dict[str, Any]:
        """Keep the KV of a request that was prefilled; return what its answer says of it."""
        name = uuid4().hex
        timer = self._clock.call_at(self._clock.now_s() + self._keep_s, lambda: self._let_go(name))
        self._kept[name] = num_tokens, timer
        return RemoteKv(self.engine_id, name, *self._address()).params(num_tokens)

    def answer(self, asked: dict[str, Any]) -> tuple[int, bytes]:
        """Answer another engine that claims KV, or is done with it: (status, body)."""
        name = asked.get("request_id")
        if asked.get("engine_id") != self.engine_id or name not in self._kept:
            return 404, b'{"error":"no such KV: it was never here, was fetched, or nobody fetched it in time"}'
        num_tokens = self._kept[name][0]
        if asked.get("is_done") is True:
            self._let_go(name)
        elif name in self._claimed:
            return 409, b'{"error":"this KV is being fetched already"}'
        else:
            self._claimed.add(name)
        return 200, orjson.dumps({"num_tokens": num_tokens})

    def fetch(
        self, source: RemoteKv, num_tokens: int, arrived: Callable[[], None], lost: Callable[[str], None]
    ) -> asyncio.Task[None]:
        """Fetch the KV of a prompt of `num_tokens`; calls one of the two. Cancel the task to give it up."""
        task = asyncio.get_running_loop().create_task(self._fetch(source, num_tokens, arrived, lost))
        self._remember(task)
        return task

    def forget(self) -> None:
        """Lose everything that is kept: the engine has crashed."""
        for _, timer in self._kept.values():
            timer.cancel()
        self._kept.clear()
        self._claimed.clear()
        self.engine_id = uuid4().hex

    async def stop(self) -> None:
        """Give up what is under way, and close the connections to other engines."""
        for _, timer in self._kept.values():
            timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for origin in self._origins.values():
            await origin.close()

    async def _fetch(
        self, source: RemoteKv, num_tokens: int, arrived: Callable[[], None], lost: Callable[[str], None]
    ) -> None:
        arrives_s, is_lost = self._clock.now_s() + self._engine.transfer_s(num_tokens), False
        try:
            await self._claim(source, num_tokens)
            await self._sleep_until(arrives_s)
            arrived()
        except KvLostError as error:
            is_lost = True
            lost(str(error))
        finally:
            if not is_lost:  # it is here, or was given up
                self._remember(asyncio.get_running_loop().create_task(self._tell_done(source)))

    async def _sleep_until(self, at_s: float) -> None:
        is_over = asyncio.Event()
        timer = self._clock.call_at(at_s, is_over.set)
        try:
            await is_over.wait()
        finally:
            timer.cancel()

    async def _claim(self, source: RemoteKv, num_tokens: int) -> None:
        """Claim KV where it is; raises `KvLostError`."""
        try:
            status, told = await self._ask(source, is_done=False)
        except (FetchError, ConfigError, ValueError) as error:
            raise KvLostError(f"KV transfer from {source.host}:{source.port} failed: {error}") from error
        if status != 200 or told.get("num_tokens") != num_tokens:
            raise KvLostError(
                f"KV transfer from {source.host}:{source.port} failed: {told.get('error', 'another prompt')}"
            )

    async def _tell_done(self, source: RemoteKv) -> None:
        try:
            await self._ask(source, is_done=True)
        except FetchError:
            return  # it is gone, and its KV with it; or it will free that in time

    async def _ask(self, source: RemoteKv, *, is_done: bool) -> tuple[int, dict[str, Any]]:
        body = orjson.dumps({"engine_id": source.engine_id, "request_id": source.request_id, "is_done": is_done})
        response = await fetch(self._origin(source), b"POST", PATH, _JSON, body, timeout_s=ANSWER_TIMEOUT_S)
        told = orjson.loads(response.body)
        return response.status, told if isinstance(told, dict) else {}

    def _origin(self, source: RemoteKv) -> Origin:
        key = source.host, source.port
        if key not in self._origins:
            if len(self._origins) == MOST_ORIGINS:
                raise KvLostError(f"KV transfer: more than {MOST_ORIGINS} engines")
            host = f"[{source.host}]" if ":" in source.host else source.host
            self._origins[key] = Origin(f"http://{host}:{source.port}")
        return self._origins[key]

    def _let_go(self, name: str) -> None:
        num_tokens, timer = self._kept.pop(name)
        self._claimed.discard(name)
        timer.cancel()
        self._engine.let_go(num_tokens)

    def _remember(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
