"""Engines' metrics over sockets: others' requests are seen, and room for ours is taken off and given back."""

from __future__ import annotations

import asyncio

from gateway_bench import COMPLETIONS, Bench, completion, run

from polyslo.engines.emulated_engine import EngineSettings
from polyslo.wire.client import Origin

CAPACITY = 4096
TELEMETRY = {"engine_interval_s": 0.1}


async def told(bench, holds):
    """Wait until what `GET /workers` says of the first engine holds; return it."""
    while True:
        (worker,) = (await bench.get(b"/workers")).json["workers"]
        if worker["engine"] is not None and holds(worker["engine"]):
            return worker["engine"]
        await asyncio.sleep(0.02)


def test_others_requests_take_room_and_give_it_back():
    """A client of the engine's own holds a request and some KV there; the metrics say so too. Then it leaves."""

    async def main():
        async with Bench(settings=EngineSettings(kv_capacity_tokens=CAPACITY), telemetry=TELEMETRY) as bench:
            record = bench.model.fleet.instances
            await told(bench, lambda engine: engine["kv_capacity_tokens"] == CAPACITY)
            assert record["kv_capacity_tokens"][0] == bench.model.kv_capacity_tokens == CAPACITY
            direct = Origin(bench.engines[0].url)
            bench.engines[0].engine.slow_down(50.0)
            reply = bench.send(COMPLETIONS, completion(3000, prompt="x " * 1500, stream=True), origin=direct)
            seen = await told(bench, lambda engine: engine["foreign_requests"] == 1 and engine["foreign_kv_tokens"])
            assert (seen["num_running"], seen["num_waiting"]) == (1, 0)
            assert record["max_residents"][0] == 1023
            assert CAPACITY / 20 <= record["kv_capacity_tokens"][0] < CAPACITY - 0.02 * CAPACITY
            page = (await bench.get(b"/metrics")).body
            assert b'polyslo_engine_foreign_requests{engine="e0",model=' in page
            reply.call.abort()
            await told(bench, lambda engine: engine["foreign_requests"] == 0 and engine["foreign_kv_tokens"] == 0)
            assert (record["max_residents"][0], record["kv_capacity_tokens"][0]) == (1024, CAPACITY)
            await direct.close()

    run(main)


def test_our_own_requests_are_not_others():
    """Whatever goes through the gateway leaves its room as it is."""

    async def main():
        async with Bench(telemetry=TELEMETRY) as bench:
            replies = [bench.send(COMPLETIONS, completion(200, stream=True)) for _ in range(20)]
            for reply in replies:
                await reply.over()
            await bench.settle()
            engine = await told(bench, lambda engine: engine["num_running"] == 0)
            assert (engine["foreign_requests"], engine["foreign_kv_tokens"]) == (0, 0)
            assert bench.model.fleet.instances["max_residents"][0] == 1024

    run(main)
