"""KV between emulated engines, through real sockets: kept, fetched, lost."""

from __future__ import annotations

import asyncio

import orjson
import pytest
import uvloop

from polyslo.engines.emulated_engine import EngineSettings
from polyslo.engines.emulated_instance import EmulatedInstance
from polyslo.engines.output_lengths import OutputLengths
from polyslo.wire.client import Origin
from polyslo.wire.fetch import fetch

WAIT_S = 30.0
PROMPT = "once upon a time " * 40
ASKED = {"do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_host": None}


class Pair:
    """Two instances: one that prefills, and one that decodes."""

    def __init__(self, profile, *, keep_kv_s=60.0, speed=20.0):
        lengths = OutputLengths.parse("20")
        self.prefill, self.decode = (
            EmulatedInstance(
                profile, EngineSettings(), lengths, model="tiny", speed=speed, role=role, keep_kv_s=keep_kv_s
            )
            for role in ("prefill", "decode")
        )

    async def __aenter__(self):
        await self.prefill.start()
        await self.decode.start()
        self.origins = {Origin(one.url): one for one in (self.prefill, self.decode)}
        self.to_prefill, self.to_decode = self.origins
        return self

    async def __aexit__(self, *error):
        for origin, instance in self.origins.items():
            await origin.close()
            await instance.stop(0.1)

    async def ask(self, origin, params=None, **more):
        """Ask for a completion and return (status, body)."""
        body = {"prompt": PROMPT, "max_tokens": 20, **more}
        if params is not None:
            body["kv_transfer_params"] = params
        answer = await fetch(origin, b"POST", b"/v1/completions", [], orjson.dumps(body), timeout_s=WAIT_S)
        return answer.status, answer.body

    async def prefilled(self):
        """Prefill and return where the KV is."""
        status, body = await self.ask(self.to_prefill, ASKED, max_tokens=1)
        assert status == 200
        return orjson.loads(body)["kv_transfer_params"]

    async def until_free(self):
        """Wait until neither keeps anything."""
        while any(one.engine.kv_tokens or one.transfers.num_kept for one in (self.prefill, self.decode)):
            await asyncio.sleep(0.001)


@pytest.fixture
def pair(profile):
    """Return a function that runs a scenario with a pair; its keywords are the pair's."""

    def play(scenario, **options):
        async def main():
            async with asyncio.timeout(WAIT_S), Pair(profile, **options) as pair:
                await scenario(pair)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    return play


def test_all_tokens_come_from_the_decode_side_and_the_kv_is_free_then(pair):
    """Twenty tokens, though the prefill made one; meanwhile it keeps the prompt's KV under a name of its own."""

    async def scenario(two):
        params = await two.prefilled()
        num_tokens = two.prefill.engine.kv_tokens
        assert params["remote_engine_id"] == two.prefill.transfers.engine_id
        assert (params["remote_port"], len(params["remote_block_ids"])) == (two.prefill.port, -(-num_tokens // 16))
        status, body = await two.ask(two.to_decode, params)
        answer = orjson.loads(body)
        assert (status, answer["usage"]["completion_tokens"]) == (200, 20)
        assert answer["usage"]["prompt_tokens"] == num_tokens
        await two.until_free()

    pair(scenario)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("wrong", ["request", "engine", "port", "twice", "prompt"])
def test_kv_that_is_not_there_is_an_error(pair, wrong, stream):
    """An unknown name, another life of the engine, nobody there, KV fetched before, or that of another prompt."""

    async def scenario(two):
        params = await two.prefilled()
        more = {}
        if wrong == "request":
            params["remote_request_id"] = "unknown"
        elif wrong == "engine":
            params["remote_engine_id"] = "another"
        elif wrong == "port":
            params["remote_port"] = 1
        elif wrong == "twice":
            assert (await two.ask(two.to_decode, params))[0] == 200
            await two.until_free()
        else:
            more["prompt"] = "another"
        status, body = await two.ask(two.to_decode, params, stream=stream, **more)
        assert status == (200 if stream else 500)  # a stream's head is out by then, as with vLLM
        assert b"KV transfer from" in body
        assert two.decode.engine.num_residents == two.decode.engine.kv_tokens == 0

    pair(scenario)


def test_kv_that_nobody_fetches_is_freed(pair):
    """After its time; a fetch that comes later fails."""

    async def scenario(two):
        params = await two.prefilled()
        await two.until_free()
        status, body = await two.ask(two.to_decode, params)
        assert (status, b"nobody fetched it in time" in body) == (500, True)

    pair(scenario, keep_kv_s=0.05)


def test_a_fetch_that_is_given_up_frees_the_kv(pair):
    """The client leaves while its KV is on the way: neither engine keeps anything."""

    async def scenario(two):
        params = await two.prefilled()
        ask = asyncio.create_task(two.ask(two.to_decode, params))
        while not two.prefill.transfers._claimed:
            await asyncio.sleep(0.001)
        ask.cancel()
        await two.until_free()
        assert two.decode.engine.num_residents == 0

    pair(scenario, speed=0.02)


def test_each_side_refuses_the_others_work(pair):
    """A prefill engine takes no whole requests, a decode engine prefills for nobody; neither what makes no sense."""

    async def scenario(two):
        assert (await two.ask(two.to_prefill))[0] == 400
        assert (await two.ask(two.to_decode, ASKED, max_tokens=1))[0] == 400
        assert (await two.ask(two.to_prefill, ASKED, max_tokens=2))[0] == 400
        assert (await two.ask(two.to_decode, {"do_remote_prefill": True}))[0] == 400
        assert (await two.ask(two.to_decode))[0] == 200  # on its own it serves whole requests, as vLLM's do

    pair(scenario)
