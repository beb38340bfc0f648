"""The real gateway before real emulated engines, all in one process, through real sockets on free ports."""

from __future__ import annotations

import asyncio
import re

import orjson
import uvloop

from polyslo.engines.emulated_engine import EngineSettings
from polyslo.engines.emulated_instance import EmulatedInstance
from polyslo.engines.output_lengths import OutputLengths
from polyslo.gateway.app import Gateway
from polyslo.gateway.config.gateway import parse_config
from polyslo.profiles.library import load_profile
from polyslo.wire.client import Origin

HELD_S = 1e9  # of an engine's time
HANG_S = 60.0  # only so that a hang fails instead of hanging, however busy the machine
MODEL = "emulated"
SPEED = 50.0
DEFAULT_SERVER = {"port": 0, "metrics_port": 0, "metrics_host": "localhost"}
LOOSE = {"chat": {"ttft_ms": 3_600_000, "tpot_ms": 50}}  # nothing is ever late, so nothing depends on the machine
CHAT, COMPLETIONS = b"/v1/chat/completions", b"/v1/completions"
PROFILE = "llama-3.1-8b-h200-tp1"


def run(main, *, hang_s=HANG_S):
    """Run a coroutine function on uvloop; what the loop's exception handler is told fails the test."""
    told = []

    async def watched():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context)))
        async with asyncio.timeout(hang_s):
            return await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(watched())
    # gRPC has one queue for all event loops, and in this one meets what was for an earlier test's.
    assert [line for line in told if "PollerCompletionQueue" not in line] == []
    return result


def way_in(gateway):
    """Return where a client sends its requests."""
    return Origin(f"http://127.0.0.1:{gateway.listener.port}")


class Reply:
    """A response as it comes; the sink of a client's call."""

    def __init__(self):
        self.status, self.headers, self.body, self.failure = None, [], b"", None
        self.num_ends = 0
        self._changed = asyncio.Event()

    def header(self, name):
        """Return a header's value; None where it is not given, or more than once."""
        found = [value for key, value in self.headers if key == name]
        return found[0] if len(found) == 1 else None

    @property
    def is_over(self):
        """Whether it has ended, well or not."""
        return self.num_ends > 0

    @property
    def json(self):
        """The body of a whole answer."""
        return orjson.loads(self.body)

    @property
    def code(self):
        """The code of an error."""
        return self.json["error"]["code"]

    async def until(self, holds):
        """Wait until something holds of it."""
        while not holds(self):
            self._changed.clear()
            await self._changed.wait()
        return self

    async def over(self):
        """Wait for its end."""
        return await self.until(lambda reply: reply.is_over)

    def on_head(self, status, headers):
        """Keep it."""
        self.status, self.headers = status, headers
        self._changed.set()

    def on_data(self, data):
        """Keep it."""
        self.body += data
        self._changed.set()

    def on_end(self):
        """Note it."""
        self.num_ends += 1
        self._changed.set()

    def on_failure(self, failure):
        """Note it."""
        self.num_ends += 1
        self.failure = failure
        self._changed.set()


class Bench:
    """Engines, the gateway before them, and a client: `async with Bench(2, server={...}) as bench`."""

    def __init__(
        self, num_engines=1, *, speed=SPEED, settings=None, model=None, file=None, roles=None, others=None,
        stream_interval=1, **tables,
    ):  # fmt: skip
        """`file`: whose change is taken for one of `self.table`, the configuration; `roles`: of each engine.

        `others`: further models by name, with so many engines each.
        """
        self._file = file
        self._roles = roles or [None] * num_engines
        self._others = others or {}
        self._speed, self._settings = speed, settings or EngineSettings()
        self._stream_interval = stream_interval
        self._model = {"name": MODEL, "profile": PROFILE, "speed": speed, **(model or {})}
        self._tables = {"classes": LOOSE, **tables}
        self.engines = []
        self.gateway = None

    async def __aenter__(self):
        for role in self._roles:
            await self.add_engine(role)
        endpoints = [{"url": engine.url, "name": f"e{k}"} for k, engine in enumerate(self.engines)]
        for endpoint, role in zip(endpoints, self._roles, strict=True):
            endpoint |= {} if role is None else {"role": role}
        models = [{**self._model, "endpoints": endpoints}]
        for name, num_engines in self._others.items():
            engines = [await self.add_engine(model=name) for _ in range(num_engines)]
            own = [{"url": engine.url, "name": f"{name}-e{k}"} for k, engine in enumerate(engines)]
            models.append({**self._model, "name": name, "endpoints": own})
        table = self.table = {"models": models, **self._tables}
        table["server"] = {**DEFAULT_SERVER, **table.get("server", {})}
        self.gateway = Gateway(
            parse_config(table, "test.toml"), self._file, lambda: parse_config(self.table, "test.toml")
        )
        await self.gateway.start()
        self.origin = way_in(self.gateway)
        self.management = Origin(f"http://localhost:{self.gateway.management_listener.port}")
        return self

    async def __aexit__(self, *error):
        await self.origin.close()
        await self.management.close()
        await self.gateway.stop()
        for engine in self.engines:
            await engine.stop(0.0)

    async def add_engine(self, role=None, model=MODEL):
        """Start one more engine, which nobody knows yet."""
        profile = load_profile(PROFILE).profile
        engine = EmulatedInstance(
            profile,
            self._settings,
            OutputLengths.parse("8"),
            model=model,
            speed=self._speed,
            allows_faults=True,
            role=role or "both",
            stream_interval=self._stream_interval,
        )
        await engine.start()
        self.engines.append(engine)
        return engine

    def hold(self, k=0):
        """Let an engine do nothing until it is told to go on: its streams stand."""
        self.engines[k].engine.stall(HELD_S)

    def go_on(self, k=0):
        """Let an engine that was held go on."""
        self.engines[k].engine.stall(-HELD_S)

    async def until(self, holds):
        """Wait until something holds; the test's time is bounded elsewhere."""
        while not holds():
            await asyncio.sleep(0.002)

    @property
    def model(self):
        """The served model."""
        return self.gateway.models[MODEL]

    def send(self, path=COMPLETIONS, body=None, headers=(), *, method=b"POST", origin=None):
        """Send a request and return its reply, which comes."""
        reply = Reply()
        raw = body if isinstance(body, bytes) else orjson.dumps(body) if body is not None else b""
        reply.call = (origin or self.origin).send(
            method, path, list(headers), raw, reply, head_timeout_s=HANG_S, idle_timeout_s=HANG_S
        )
        return reply

    async def ask(self, *args, **more):
        """Send a request and return its whole reply."""
        return await self.send(*args, **more).over()

    async def get(self, path, *, origin=None):
        """GET from the management port, or from elsewhere."""
        return await self.ask(path, method=b"GET", origin=origin or self.management)

    async def settle(self):
        """Wait until nothing is under way, then check that nothing is left behind."""
        while self.model.num_in_flight or any(engine.engine.num_residents for engine in self.engines):
            await asyncio.sleep(0.002)
        self.check_empty()

    def check_empty(self):
        """No request, no token and no KV is believed to be anywhere, and nobody holds a place."""
        model = self.model
        assert model.decider.num_free == len(model.relays)
        assert not any(model.relays)
        assert not any(instance.running for instance in model.instances)
        assert self.gateway.places.num_taken == self.gateway.places.num_waiting == 0
        assert not model.fleet.pending_size.any()
        records = model.fleet.instances
        for name in ("num_residents", "num_decodes", "num_own", "num_queued", "queued_tokens", "decode_kv_tokens",
                     "kv_tokens", "committed_tokens"):  # fmt: skip
            assert not records[name].any(), (name, records[name])


async def ask_for(bench, lengths):
    """Send mixed requests at once, two of three streamed, and see that each gets so many tokens and no others."""
    replies = [
        bench.send(COMPLETIONS, completion(length, prompt=f"tale {k} " * (k + 1), stream=k % 3 > 0))
        for k, length in enumerate(lengths)
    ]
    for k, (reply, length) in enumerate(zip(replies, lengths, strict=True)):
        await reply.over()
        assert (reply.status, reply.failure) == (200, None)
        if k % 3:
            assert num_tokens(reply.body) == length
        else:
            assert reply.json["usage"]["completion_tokens"] == length


def completion(output_tokens=8, *, prompt="once upon a time", stream=False, **more):
    """Return the body of a completion with so many tokens."""
    return {"model": MODEL, "prompt": prompt, "max_tokens": output_tokens, "stream": stream, "ignore_eos": True,
            "vllm_xargs": {"emulate_output_tokens": output_tokens}, **more}  # fmt: skip


def chat(output_tokens=8, *, prompt="once upon a time", stream=False, **more):
    """Return the body of a chat with so many tokens."""
    messages = [{"role": "user", "content": prompt}]
    return {"model": MODEL, "messages": messages, "max_tokens": output_tokens, "stream": stream, "ignore_eos": True,
            "vllm_xargs": {"emulate_output_tokens": output_tokens}, **more}  # fmt: skip


def plain(body):
    """Return a body without when it was created."""
    return re.sub(rb'"created":\d+', b'"created":0', body)


def num_tokens(body):
    """Return how many text chunks a stream has."""
    return body.count(b'"text":')
