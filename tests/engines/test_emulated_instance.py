"""Emulated instances behind real sockets."""

from __future__ import annotations

import asyncio

import orjson
import pytest
import uvloop

from polyslo.engines.emulated_engine import EngineSettings
from polyslo.engines.emulated_instance import EmulatedInstance
from polyslo.engines.output_lengths import OutputLengths
from polyslo.errors import ConfigError
from polyslo.wire.client import Origin
from polyslo.wire.fetch import FetchError, fetch

WAIT_S = 30.0
ENDLESS = {"prompt": [1], "max_tokens": 100_000, "ignore_eos": True, "stream": True}


class Stream:
    """A sink that hears a stream: whether it began, and how it ended."""

    def __init__(self):
        self.data, self.begun, self.over = b"", asyncio.Event(), asyncio.Event()
        self.failure = None

    def on_head(self, status, headers):
        """Keep the status."""
        self.status = status

    def on_data(self, data):
        """Keep the data."""
        self.data += data
        self.begun.set()

    def on_end(self):
        """Note the end."""
        self.over.set()

    def on_failure(self, failure):
        """Note the failure."""
        self.failure = failure
        self.over.set()


def serve(profile, scenario):
    """Run `scenario(instance, origin)` against a fast instance that takes faults."""

    async def run():
        lengths = OutputLengths.parse("20")
        instance = EmulatedInstance(profile, EngineSettings(), lengths, model="tiny", speed=5.0, allows_faults=True)
        await instance.start()
        origin = Origin(instance.url)
        try:
            async with asyncio.timeout(WAIT_S):
                await scenario(instance, origin)
        finally:
            await origin.close()
            await instance.stop(grace_s=0.1)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def post(origin, path, **body):
    """Send a request and wait for its whole answer."""
    return await fetch(origin, b"POST", path, [], orjson.dumps(body), timeout_s=WAIT_S)


def begin(origin, **body):
    """Begin a stream; return its call and sink."""
    sink = Stream()
    call = origin.send(
        b"POST", b"/v1/completions", [], orjson.dumps(body), sink, head_timeout_s=WAIT_S, idle_timeout_s=WAIT_S
    )
    return call, sink


def test_requests_are_answered(profile):
    """Health, models, a whole answer and a stream, over HTTP."""

    async def scenario(instance, origin):
        assert (await fetch(origin, b"GET", b"/health", timeout_s=WAIT_S)).status == 200
        models = await fetch(origin, b"GET", b"/v1/models", timeout_s=WAIT_S)
        assert orjson.loads(models.body)["data"][0]["id"] == "tiny"
        whole = await post(origin, b"/v1/completions", prompt="hello", max_tokens=100)
        assert orjson.loads(whole.body)["usage"]["completion_tokens"] == 20
        streamed = await post(origin, b"/v1/completions", prompt="hello", max_tokens=100, stream=True)
        assert streamed.body.count(b"data: {") == 20
        assert streamed.body.endswith(b"data: [DONE]\n\n")
        assert instance.engine.num_residents == 0

    serve(profile, scenario)


def test_a_client_that_disconnects_frees_its_memory(profile):
    """The request leaves the engine, which is then idle."""

    async def scenario(instance, origin):
        call, stream = begin(origin, **ENDLESS)
        await stream.begun.wait()
        call.abort()
        while instance.engine.num_residents:
            await asyncio.sleep(0.001)
        assert instance.engine.kv_tokens == 0

    serve(profile, scenario)


def test_stopping_ends_streams_with_abort(profile):
    """A stream under way when the instance stops ends properly."""

    async def scenario(instance, origin):
        _, stream = begin(origin, **ENDLESS)
        await stream.begun.wait()
        await instance.stop(grace_s=5.0)
        await stream.over.wait()
        assert stream.failure is None
        assert b'"finish_reason":"abort"' in stream.data
        assert stream.data.endswith(b"data: [DONE]\n\n")

    serve(profile, scenario)


def test_closed_streams_are_errors(profile):
    """Their clients see a connection that broke; the instance goes on."""

    async def scenario(instance, origin):
        _, stream = begin(origin, **ENDLESS)
        await stream.begun.wait()
        await post(origin, b"/faults", kind="close_streams")
        await stream.over.wait()
        assert stream.failure is not None
        assert stream.failure.started
        assert instance.engine.num_residents == 0
        assert (await post(origin, b"/v1/completions", prompt="hello")).status == 200

    serve(profile, scenario)


async def fetch_health(origin):
    """Return the status, None while nobody listens."""
    try:
        return (await fetch(origin, b"GET", b"/health", timeout_s=WAIT_S)).status
    except FetchError:
        return None


def test_a_crashed_instance_is_gone(profile):
    """Streams end as vLLM's do when its engine dies, then connections are refused."""

    async def scenario(instance, origin):
        _, stream = begin(origin, **ENDLESS)
        await stream.begun.wait()
        await post(origin, b"/faults", kind="crash")
        await stream.over.wait()
        assert b'"error"' in stream.data
        assert stream.data.endswith(b"data: [DONE]\n\n")
        while await fetch_health(origin) is not None:
            await asyncio.sleep(0.001)
        assert instance.engine.num_residents == 0

    serve(profile, scenario)


def test_a_crashed_instance_comes_back_on_its_port(profile):
    """After the time that was asked for it serves again, empty, at the same address."""

    async def scenario(instance, origin):
        port, (_, stream) = instance.port, begin(origin, **ENDLESS)
        await stream.begun.wait()
        await post(origin, b"/faults", kind="crash", for_s=0.02)
        await stream.over.wait()
        while await fetch_health(origin) != 200 or instance.engine.num_iterations == 0:
            await asyncio.sleep(0.005)
        assert instance.port == port
        assert (await post(origin, b"/v1/completions", prompt="hello")).status == 200

    serve(profile, scenario)


def test_errors_and_slowness_pass(profile):
    """New requests are refused while the fault lasts; a slow engine is as fast as before after it."""

    async def scenario(instance, origin):
        await post(origin, b"/faults", kind="slow", for_s=0.05, factor=3)
        await post(origin, b"/faults", kind="error", for_s=0.05)
        await post(origin, b"/faults", kind="stall", for_s=0.01)
        refused = await post(origin, b"/v1/completions", prompt="hello")
        assert orjson.loads(refused.body)["error"]["code"] == refused.status == 500
        while (await post(origin, b"/v1/completions", prompt="hello")).status != 200:
            await asyncio.sleep(0.005)

    serve(profile, scenario)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"kind": "stal", "for_s": 1}, "did you mean 'stall'"),
        ({"kind": "stall"}, "stall needs for_s"),
        ({"kind": "slow", "for_s": 1}, "slow needs factor"),
        ({"kind": "stall", "for_s": -1}, "for_s must be a number above 0"),
        ({"kind": "crash", "fors": 1}, "did you mean 'for_s'"),
    ],
)
def test_a_fault_that_is_none_is_refused(profile, body, said):
    """Nothing happens, and the answer names what was meant."""

    async def scenario(instance, origin):
        answer = await post(origin, b"/faults", **body)
        assert answer.status == 400
        assert said in orjson.loads(answer.body)["error"]["message"]

    serve(profile, scenario)


def test_a_port_in_use_is_said(profile):
    """Two instances can't have the same port."""

    async def scenario(instance, origin):
        other = EmulatedInstance(profile, EngineSettings(), OutputLengths.parse("20"), model="tiny", port=instance.port)
        with pytest.raises(ConfigError, match=f"can't listen on 127.0.0.1:{instance.port}"):
            await other.start()

    serve(profile, scenario)
