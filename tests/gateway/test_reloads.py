"""Files that change while the gateway runs: instances come and go, keys and classes hold from the next request on."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal

import pytest
from gateway_bench import COMPLETIONS, LOOSE, Bench, completion, num_tokens, run

from polyslo.core.state import FITS
from polyslo.errors import ConfigError
from polyslo.gateway.config.gateway import parse_config
from polyslo.gateway.config.reconfigure import fixed_changes, granting_changes, reconfigured, too_tight_classes
from polyslo.gateway.config.reloads import Reloads, Source
from polyslo.gateway.requests.keys import hash_of

WELL = {"interval_s": 0.1}
HOUR = {"ttft_ms": 3_600_000}
SERVED = {"models": [{"name": "m", "endpoints": [{"url": "http://a:1"}]}], "classes": LOOSE}


def listed(*engines):
    """Return an instances file that lists engines, by the names l0, l1, ..."""
    endpoints = [
        {"name": f"l{k}", "address": "127.0.0.1", "port": int(engine.url.rsplit(":", 1)[1])}
        for k, engine in engines
    ]  # fmt: skip
    return json.dumps({"endpoints": endpoints})


def bearer(key):
    """Return a key's header."""
    return [(b"authorization", b"Bearer " + key)]


def test_the_instances_file_is_followed(tmp_path):
    """Those it lists at the start serve at once; one more joins; one less drains, its stream whole."""
    file = tmp_path / "i.json"

    async def main():
        async with Bench(2) as engines:
            file.write_text(listed((0, engines.engines[0])))
            async with Bench(0, health=WELL, instances_file=str(file)) as bench:
                looks = bench.gateway.changes.reloads.look
                assert [instance.name for instance in bench.model.instances] == ["l0"]
                engines.hold()
                running = bench.send(COMPLETIONS, completion(100, stream=True))
                await bench.until(lambda: engines.engines[0].engine.num_residents)
                file.write_text(listed((0, engines.engines[0]), (1, engines.engines[1])))
                await looks()
                await bench.until(lambda: bench.model.instances[1].closed == FITS)
                file.write_text(listed((1, engines.engines[1])))
                await looks()
                assert bench.model.instances[0].is_leaving
                reply = await bench.ask(COMPLETIONS, completion(), [(b"x-polyslo-explain", b"1")])
                assert reply.header(b"x-polyslo-instance") == b"l1"
                engines.go_on()
                await running.over()
                assert (running.failure, num_tokens(running.body)) == (None, 100)
                await bench.until(lambda: len(bench.model.instances) == 1)
                await bench.settle()

    run(main)


@pytest.mark.parametrize(
    "text", ["{", '{"endpoints": [{"name": "x"}]}', '{"endpoints": [{"name": "e0", "address": "h", "port": 1}]}', None]
)
def test_a_mistaken_instances_file_changes_nothing(tmp_path, text, caplog):
    """Not JSON, an entry without an address, a name that is taken, or no file: logged, counted, and that is all."""
    file = tmp_path / "i.json"
    file.write_text('{"endpoints": []}')

    async def main():
        async with Bench(1, instances_file=str(file)) as bench:
            if text is None:
                file.unlink()
            else:
                file.write_text(text)
            with caplog.at_level(logging.ERROR, "polyslo"):
                await bench.gateway.changes.reloads.look()
                await bench.gateway.changes.reloads.look()
            assert sum("is not applied" in record.message for record in caplog.records) == 1
            assert [instance.name for instance in bench.model.instances] == ["e0"]
            metrics = (await bench.get(b"/metrics")).body
            assert b'polyslo_reload_total{file="instances_file",outcome="invalid"} 1.0' in metrics
            assert b'polyslo_reload_valid{file="instances_file"} 0.0' in metrics
            file.write_text('{"endpoints": []}')
            await bench.gateway.changes.reloads.look()
            assert b'polyslo_reload_valid{file="instances_file"} 1.0' in (await bench.get(b"/metrics")).body

    run(main)


def test_what_finds_no_room_waits_for_it(tmp_path):
    """A file that replaces the only instance there is room for: the new one joins when the old one is gone."""
    file = tmp_path / "i.json"

    async def main():
        async with Bench(2) as engines:
            file.write_text(listed((0, engines.engines[0])))
            table = {"instances_file": str(file), "health": WELL, "model": {"max_instances": 1}}
            async with Bench(0, **table) as bench:
                engines.hold()
                running = bench.send(COMPLETIONS, completion(100, stream=True))
                await bench.until(lambda: engines.engines[0].engine.num_residents)
                file.write_text(listed((1, engines.engines[1])))
                await bench.gateway.changes.reloads.look()
                assert [instance.name for instance in bench.model.instances] == ["l0"]
                engines.go_on()
                await running.over()
                assert num_tokens(running.body) == 100
                await bench.until(lambda: bench.model.instances.find("l1") is not None)
                await bench.until(lambda: bench.model.has_open_instance)
                await bench.settle()

    run(main)


def test_keys_and_classes_hold_from_the_next_request_on(tmp_path):
    """A new key is let in, an old one is not; a request under way keeps its grant; a mistaken file changes nothing."""
    file = tmp_path / "g.toml"
    file.write_text("old")
    keys = {"alice": {"hash": hash_of(b"alice's")}}
    classes = {"chat": {**HOUR, "tpot_ms": 50}}

    async def main():
        async with Bench(1, file=str(file), keys=keys, classes=classes) as bench:
            look = bench.gateway.changes.reloads.look
            await look()
            bench.hold()
            running = bench.send(COMPLETIONS, completion(100, stream=True), bearer(b"alice's"))
            await bench.until(lambda: bench.engines[0].engine.num_residents)
            bench.table |= {
                "keys": {"bob": {"hash": hash_of(b"bob's")}},
                "classes": {**classes, "slow": {**HOUR, "tpot_ms": 500}},
            }
            file.write_text("new")
            await look()
            assert (await bench.ask(COMPLETIONS, completion(), bearer(b"alice's"))).status == 401
            bench.go_on()
            named = [*bearer(b"bob's"), (b"x-llm-d-inference-objective", b"slow")]
            assert (await bench.ask(COMPLETIONS, completion(), named)).status == 200
            await running.over()
            assert (running.failure, num_tokens(running.body)) == (None, 100)
            bench.table["keys"] = {"bob": {"hash": "plain"}}
            file.write_text("mistaken")
            await look()
            assert (await bench.ask(COMPLETIONS, completion(), named)).status == 200
            assert (
                b'polyslo_reload_total{file="configuration",outcome="invalid"} 1.0'
                in (await bench.get(b"/metrics")).body
            )
            await bench.settle()

    run(main)


def test_the_admin_key_and_endpoints_of_the_file_are_followed_too(tmp_path):
    """A key that is given later opens /workers; an endpoint written later joins, one that is struck out goes."""
    file = tmp_path / "g.toml"
    file.write_text("old")

    async def main():
        async with Bench(1, file=str(file), health=WELL) as bench:
            engine = await bench.add_engine()
            body, key = {"url": "http://127.0.0.1:9"}, bearer(b"admin")
            assert (await bench.ask(b"/workers", body, key, origin=bench.management)).status == 403
            model = bench.table["models"][0]
            bench.table["server"]["admin_key_hash"] = hash_of(b"admin")
            bench.table["models"] = [{**model, "endpoints": [{"url": engine.url, "name": "late"}]}]
            file.write_text("new")
            await bench.gateway.changes.reloads.look()
            await bench.until(lambda: [one.name for one in bench.model.instances if one.closed == FITS] == ["late"])
            assert (await bench.ask(b"/workers", body, key, origin=bench.management)).status == 202
            await bench.settle()

    run(main)


def test_sighup_has_everything_read_again(tmp_path):
    """Also what has not changed: each file is applied once more."""

    async def main():
        applied = asyncio.Event()
        file = tmp_path / "f"
        file.write_text("x")
        source = Source("configuration", str(file), lambda: applied.set() or [])
        reloads = Reloads([source], period_s=3600.0)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloads.ask)
        reloads.start()
        await applied.wait()
        applied.clear()
        os.kill(os.getpid(), signal.SIGHUP)
        await applied.wait()
        await reloads.stop()
        assert source.num_applied == 2

    run(main)


def test_a_file_is_applied_when_its_content_changes_and_only_then(tmp_path):
    """Of the same size and time it is read again; touched only, it is not; what raises is counted and kept out."""
    file = tmp_path / "f"
    file.write_text("aa")
    texts = []

    def apply():
        texts.append(file.read_text())
        if texts[-1] == "no":
            raise ConfigError("no")
        return []

    async def main():
        source = Source("configuration", str(file), apply)
        reloads = Reloads([source])
        for text in ("aa", "bb", "bb", "no", "no", "aa"):
            file.write_text(text)
            os.utime(file, (1, 1))
            await reloads.look()
        assert (source.num_applied, source.num_invalid, source.is_valid) == (3, 1, True)

    run(main)
    assert texts == ["aa", "bb", "no", "aa"]


def test_what_holds_from_the_next_start_on_is_named():
    """Ports, profiles, tiers and whatever else is built in; what may change is not among them."""
    started = parse_config(SERVED, "g.toml")
    new = parse_config(
        {
            "models": [{"name": "m", "slack_ms": 5, "endpoints": [{"url": "http://b:1"}]}],
            "classes": {**LOOSE, "voice": {"ttft_ms": 300, "tpot_ms": 20}},
            "keys": {"a": {"hash": hash_of(b"a")}},
            "slo": {"default": "chat"},
            "server": {"port": 1, "admin_key_hash": hash_of(b"b")},
            "journal": {"file": "j"},
        },
        "g.toml",
    )
    assert fixed_changes(started, new) == [
        "server.port",
        "models.m.slack_ms",
        "journal.file",
        "tiers (they follow the classes)",
    ]
    assert fixed_changes(started, started) == []
    assert fixed_changes(started, parse_config(SERVED | {"models": [*SERVED["models"], {"name": "n"}]}, "g.toml")) == [
        "models"
    ]
    assert granting_changes(started, new) == [
        "slo",
        "class voice is new",
        "key a is new",
        "the admin key is another",
    ]
    assert too_tight_classes(started, new) == ["voice"]
    effective = reconfigured(started, new)
    assert effective.tiers_s == pytest.approx(started.tiers_s)
    assert (effective.server.port, effective.models) == (started.server.port, started.models)
    assert (effective.keys, effective.classes, effective.slo) == (new.keys, new.classes, new.slo)


def test_an_instance_that_is_listed_under_another_name_joins_anew(tmp_path):
    """It drains under its old name; as soon as it is gone it joins under the new one. Labels are taken over at once."""
    file = tmp_path / "i.json"

    async def main():
        async with Bench(1) as engines:
            (engine,) = engines.engines
            file.write_text(listed((0, engine)))
            async with Bench(0, health=WELL, instances_file=str(file)) as bench:
                text = listed((0, engine)).replace('"l0",', '"l0", "labels": {"zone": "b"},')
                file.write_text(text)
                await bench.gateway.changes.reloads.look()
                assert bench.model.instances[0].labels == (("zone", "b"),)
                assert not bench.model.instances[0].is_leaving
                file.write_text(listed((1, engine)))
                await bench.gateway.changes.reloads.look()
                await bench.until(lambda: [one.name for one in bench.model.instances if one.closed == FITS] == ["l1"])
                assert (await bench.ask(COMPLETIONS, completion())).status == 200
                await bench.settle()

    run(main)
