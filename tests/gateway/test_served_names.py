"""Instances that serve other models than the one that they are listed for are warned of."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from gateway_bench import COMPLETIONS, MODEL, SPEED, Bench, completion, run

from polyslo.gateway.instances import served_names
from polyslo.gateway.instances.instance import Instance
from polyslo.gateway.instances.served_names import MOST_SHOWN, TRIES, ServedNames
from polyslo.gateway.requests.keys import hash_of
from polyslo.wire.client import Origin
from polyslo.wire.server import listen

KEY = b"Bearer the admin's"


def models(*names):
    """Return a list of models as engines answer it."""
    return 200, orjson.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})


def warnings(caplog):
    """Return what was warned of."""
    return [record.getMessage() for record in caplog.records if " is listed for " in record.getMessage()]


@pytest.mark.parametrize(
    ("answers", "told", "num_asked"),
    [
        ([models("m")], None, 1),
        ([models("adapter", "m")], None, 1),
        ([models("other")], "'other'", 1),
        ([models("a", "b\n")], "'a', 'b\\n'", 1),
        ([(503, b""), models(), models("other")], "'other'", 3),
        ([(503, b""), (200, b"loading"), models("m")], None, 3),
        ([(404, b"not found")], None, TRIES),
        ([(200, b'{"data": [1, null, {"id": 2}, {"name": "m"}]}')], None, TRIES),
        ([(200, b'{"data": [{"id": ' + b"[" * 1000 + b"]" * 1000 + b"}]}")], None, TRIES),
        ([(200, b"[" * 100_000)], None, TRIES),
        ([models(*"0123456789")], ", ".join(f"'{k}'" for k in range(MOST_SHOWN)), 1),
    ],
)
def test_an_instance_is_believed_when_it_names_what_it_serves(answers, told, num_asked, caplog, monkeypatch):
    """Who names nothing is asked again, and then left alone; the last answer is repeated."""
    monkeypatch.setattr(served_names, "PAUSE_S", 0.0)
    asked = []

    def answer(exchange):
        asked.append(exchange.path)
        status, body = answers[min(len(asked), len(answers)) - 1]
        exchange.respond(status, [], body)

    async def main():
        listener = await listen(answer, "127.0.0.1", 0)
        origin = Origin(f"http://127.0.0.1:{listener.port}")
        names = ServedNames("m")
        names.compare(Instance(0, "e0", str(origin), origin))
        await asyncio.gather(*names._tasks)
        await names.stop()
        await origin.close()
        await listener.close(1.0)

    run(main)
    assert asked == [b"/v1/models"] * num_asked
    assert len(warnings(caplog)) == (told is not None)
    for line in warnings(caplog):
        assert line.startswith(f"instance e0 serves {told}, and is listed for 'm', ")


def test_nobody_is_waited_for_when_it_stops(monkeypatch):
    """An instance that does not answer is asked no more."""
    monkeypatch.setattr(served_names, "PAUSE_S", 3600.0)

    async def main():
        origin = Origin("http://127.0.0.1:1")
        names = ServedNames("m")
        names.compare(Instance(0, "e0", str(origin), origin))
        await asyncio.sleep(0.05)
        await names.stop()
        assert not names._tasks
        await origin.close()

    run(main)


@pytest.mark.parametrize(("name", "warned"), [(MODEL, {"late"}), ("another", {"e0", "e1", "late"}), ("*", set())])
def test_a_gateway_warns_of_instances_at_its_start_and_of_those_that_join(name, warned, caplog):
    """Where no model is named, the gateway goes by what its instances serve, and nothing is compared."""

    async def main():
        server = {"admin_key_hash": hash_of(KEY.removeprefix(b"Bearer "))}
        async with Bench(
            2, model={"name": name, "max_instances": 3}, server=server, health={"interval_s": 0.1}
        ) as bench:
            late = await bench.add_engine(model="a third")
            body = {"url": late.url, "name": "late"}
            told = await bench.ask(b"/workers", body, [(b"authorization", KEY)], origin=bench.management)
            assert told.status == 202
            await bench.until(lambda: len(warnings(caplog)) >= len(warned))
            await bench.ask(COMPLETIONS, completion())

    run(main)
    assert {line.split()[1] for line in warnings(caplog)} == warned


def test_an_instance_that_comes_back_is_compared_anew(caplog):
    """Another engine may stand behind its address by then."""
    answers = {b"/health": (200, b""), b"/v1/models": models(MODEL)}

    def answer(exchange):
        status, body = answers.get(exchange.path, (404, b""))
        exchange.respond(status, [], body)

    async def main():
        listener = await listen(answer, "127.0.0.1", 0)
        endpoint = {"url": f"http://127.0.0.1:{listener.port}", "name": "e0"}
        health = {"interval_s": 0.1, "failure_threshold": 1, "success_threshold": 1}
        async with Bench(0, models=[{"name": MODEL, "speed": SPEED, "endpoints": [endpoint]}], health=health) as bench:
            (instance,) = bench.model.instances
            answers[b"/health"] = 503, b""
            await bench.until(lambda: not instance.is_open)
            assert not warnings(caplog)
            answers[b"/health"], answers[b"/v1/models"] = (200, b""), models("other")
            await bench.until(lambda: instance.is_open and warnings(caplog))
        await listener.close(1.0)

    run(main)
    assert len(warnings(caplog)) == 1
