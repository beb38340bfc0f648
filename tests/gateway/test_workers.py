"""`/workers`: instances that join and leave while requests run, and who may let them."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from gateway_bench import COMPLETIONS, MODEL, Bench, completion, num_tokens, run

from polyslo.cli.main import cli
from polyslo.core.state import DRAINING, FITS
from polyslo.gateway.journal.lived import relive
from polyslo.gateway.journal.reader import JournalReader
from polyslo.gateway.journal.replay import Replayed, replay
from polyslo.gateway.requests.keys import hash_of

ADMIN = {"admin_key_hash": hash_of(b"the admin's")}
KEY = [(b"authorization", b"Bearer the admin's")]
WELL = {"interval_s": 0.1}


async def post(bench, body, headers=KEY):
    """POST /workers."""
    return await bench.ask(b"/workers", body, headers, origin=bench.management)


async def delete(bench, name, *, force=False, headers=KEY):
    """DELETE a worker."""
    path = b"/workers/" + quote(name, safe="").encode() + (b"?force=1" if force else b"")
    return await bench.ask(path, None, headers, method=b"DELETE", origin=bench.management)


async def names(bench):
    """Return the instances that are told of, with how they stand."""
    workers = (await bench.get(b"/workers")).json["workers"]
    return {worker["name"]: worker["status"] for worker in workers}


async def placed(bench, **more):
    """Return which instance served a request."""
    reply = await bench.ask(COMPLETIONS, completion(**more), [(b"x-polyslo-explain", b"1")])
    assert reply.status == 200
    return reply.header(b"x-polyslo-instance").decode()


def test_an_instance_joins_serves_and_leaves():
    """It is told at once, opened by the first good look, gets requests, and is gone after a DELETE by its URL."""

    async def main():
        async with Bench(1, server=ADMIN, health=WELL) as bench:
            engine = await bench.add_engine()
            told = await post(bench, {"url": engine.url, "name": "late", "labels": {"zone": "b"}})
            assert (told.status, told.json["status"], told.json["is_healthy"]) == (202, "joining", False)
            assert (told.json["model_id"], told.json["labels"]) == (MODEL, {"zone": "b"})
            assert told.header(b"location") == b"/workers/late"
            await bench.until(lambda: bench.model.instances[1].closed == FITS)
            assert await names(bench) == {"e0": "ready", "late": "ready"}
            bench.model.close_instance(0, DRAINING)
            assert await placed(bench) == "late"
            bench.model.close_instance(0, FITS)
            await bench.settle()
            assert (await delete(bench, engine.url)).status == 202
            await bench.until(lambda: len(bench.model.instances) == 1)
            assert await names(bench) == {"e0": "ready"}
            kinds = [event["kind"] for event in bench.gateway.boards[MODEL].events if event["instance"] == 1]
            assert [kind for kind in kinds if kind in ("joined", "draining", "left")] == ["joined", "draining", "left"]
            assert await placed(bench) == "e0"
            await bench.settle()

    run(main)


def test_a_gateway_may_begin_without_instances():
    """With an admin key it waits for POST: until then 503, from then on 200."""

    async def main():
        async with Bench(0, server=ADMIN, health=WELL) as bench:
            assert (await bench.ask(COMPLETIONS, completion())).status == 503
            assert b"polyslo_average_kv_cache_utilization" in (await bench.get(b"/metrics")).body
            assert (await bench.get(b"/state")).json["instances"] == []
            engine = await bench.add_engine()
            await post(bench, {"url": engine.url})
            await bench.until(lambda: bench.model.has_open_instance)
            assert (await bench.ask(COMPLETIONS, completion())).status == 200
            await bench.settle()

    run(main)


def test_what_runs_at_an_instance_that_leaves_ends_whole():
    """It drains: the stream goes on to its end, new requests go elsewhere, then its slot is free for another one."""

    async def main():
        async with Bench(1, server=ADMIN, health=WELL, model={"max_instances": 2}) as bench:
            bench.hold()
            running = bench.send(COMPLETIONS, completion(100, stream=True))
            await bench.until(lambda: bench.engines[0].engine.num_residents)
            engine = await bench.add_engine()
            await post(bench, {"url": engine.url, "name": "other"})
            await bench.until(lambda: bench.model.instances[1].closed == FITS)
            assert (await delete(bench, "e0")).json["status"] == "draining"
            assert await placed(bench) == "other"
            full = await post(bench, {"url": "http://127.0.0.1:9"})
            assert (full.status, full.code) == (409, "no_room_for_instance")
            bench.go_on()
            await running.over()
            assert (running.failure, num_tokens(running.body)) == (None, 100)
            await bench.until(lambda: len(bench.model.instances) == 1)
            assert (await post(bench, {"url": bench.engines[0].url, "name": "again"})).status == 202
            await bench.until(lambda: bench.model.instances[0].closed == FITS)
            assert bench.model.instances[0].name == "again"
            await bench.settle()

    run(main)


def test_an_instance_removed_by_force_gives_up_what_it_has():
    """A stream that has begun is cut, a request without a token yet is served by another instance, whole."""

    async def main():
        async with Bench(2, server=ADMIN, health={"interval_s": 3600.0}) as bench:
            bench.model.close_instance(1, DRAINING)
            begun = bench.send(COMPLETIONS, completion(100_000, stream=True))
            await begun.until(lambda reply: reply.body)
            bench.engines[0].engine.stall(3600.0 * 50)
            waiting = bench.send(COMPLETIONS, completion(8, stream=True))
            await bench.until(lambda: len(bench.model.instances[0].running) == 2)
            bench.model.close_instance(1, FITS)
            gone = await delete(bench, "e0", force=True)
            assert (gone.status, gone.json["status"]) == (200, "draining")
            assert await names(bench) == {"e1": "ready"}
            assert (await begun.over()).failure.kind == "reset"
            await waiting.over()
            assert (waiting.failure, num_tokens(waiting.body)) == (None, 8)
            await bench.settle()

    run(main)


def test_a_prefill_is_not_blamed_for_a_decode_side_that_was_removed():
    """PD: its decode instance is gone when a prefill ends; the request fails, its prefill instance stays open."""

    async def main():
        rule = {"interval_s": 3600.0, "failure_threshold": 1}
        apart = {"mode": "pd", "policy": "minimal"}  # which chooses the decode side when the prefill has ended
        async with Bench(2, server=ADMIN, health=rule, model=apart, roles=("prefill", "decode")) as bench:
            bench.hold(0)
            reply = bench.send(COMPLETIONS, completion(8, stream=True))
            await bench.until(lambda: bench.model.instances[0].running)
            assert (await delete(bench, "e1", force=True)).status == 200
            assert await names(bench) == {"e0": "ready"}
            bench.go_on(0)
            await reply.over()
            assert (reply.status, reply.code) == (502, "instance_failed")
            assert await names(bench) == {"e0": "ready"}
            await bench.settle()

    run(main)


def test_one_that_leaves_may_stay_after_all():
    """POST of an instance that is draining keeps it; its requests never notice."""

    async def main():
        async with Bench(1, server=ADMIN, health=WELL) as bench:
            bench.hold()
            running = bench.send(COMPLETIONS, completion(100, stream=True))
            await bench.until(lambda: bench.engines[0].engine.num_residents)
            await delete(bench, "e0")
            assert (await post(bench, {"url": bench.engines[0].url, "name": "e0"})).status == 202
            await bench.until(lambda: bench.model.instances[0].closed == FITS)
            bench.go_on()
            await running.over()
            assert (running.failure, num_tokens(running.body)) == (None, 100)
            assert await names(bench) == {"e0": "ready"}
            await bench.settle()

    run(main)


def test_only_the_admin_changes_instances():
    """Without an admin key in the configuration 403; without it in the request, or with another one, 401."""

    async def main():
        async with Bench(1) as bench:
            refused = [await post(bench, {"url": "http://127.0.0.1:9"}), await delete(bench, "e0")]
            assert [(reply.status, reply.code) for reply in refused] == [(403, "forbidden")] * 2
        keys = {"alice": {"hash": hash_of(b"not the admin's")}}
        async with Bench(1, server=ADMIN, keys=keys) as bench:
            for headers in ([], [(b"authorization", b"Bearer not the admin's")], [(b"authorization", b"Basic x")]):
                for reply in (
                    await post(bench, {"url": "http://127.0.0.1:9"}, headers),
                    await delete(bench, "e0", headers=headers),
                ):
                    assert (reply.status, reply.code) == (401, "invalid_api_key")
            assert await names(bench) == {"e0": "ready"}
            one = await bench.get(b"/workers/e0")
            assert (one.status, one.json["name"]) == (200, "e0")
            assert b"admin" not in one.body

    run(main)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "body"),
        (b"[]", "body"),
        ({}, "url"),
        ({"url": "ftp://a:1"}, "url"),
        ({"url": "http://a:1/v1"}, "url"),
        ({"url": "http://a:1", "name": ""}, "name"),
        ({"url": "http://a:1", "role": "chef"}, "role"),
        ({"url": "http://a:1", "labels": {"a": 1}}, "labels"),
        ({"url": "http://a:1", "api_key": "caf\u00e9"}, "api_key"),
        ({"url": "http://a:1", "prioritiy": 1}, "prioritiy"),
    ],
)
def test_a_mistaken_post_is_a_400_that_names_the_field(body, told):
    """Nothing joins, and secrets are not repeated."""

    async def main():
        async with Bench(1, server=ADMIN) as bench:
            reply = await post(bench, body)
            assert reply.status == 400
            assert told in reply.json["error"]["message"]
            assert "caf" not in reply.json["error"]["message"]
            assert len(bench.model.instances) == 1

    run(main)


def test_who_is_there_or_unknown_is_told():
    """A second instance of one URL or name is a 409, an unknown model, instance or path a 404, a wrong method a 405."""

    async def main():
        async with Bench(1, server=ADMIN) as bench:
            for body in ({"url": bench.engines[0].url}, {"url": "http://127.0.0.1:9", "name": "e0"}):
                reply = await post(bench, body)
                assert (reply.status, reply.code) == (409, "instance_already_there")
            assert (await post(bench, {"url": "http://127.0.0.1:9", "model": "other"})).status == 404
            assert (await delete(bench, "nobody")).status == 404
            assert (await bench.get(b"/workers/nobody")).status == 404
            for path, method in ((b"/workers", b"DELETE"), (b"/workers/e0", b"POST"), (b"/workers", b"PUT")):
                assert (await bench.ask(path, None, KEY, method=method, origin=bench.management)).status == 405
            odd = await bench.ask(b"/workers/e0?force=maybe", None, KEY, method=b"DELETE", origin=bench.management)
            assert odd.status == 400
            assert await names(bench) == {"e0": "ready"}

    run(main)


def test_one_that_does_not_answer_stays_outside():
    """It is told as joining and gets no request."""

    async def main():
        async with Bench(1, server=ADMIN, health=WELL) as bench:
            assert (await post(bench, {"url": "http://127.0.0.1:9", "name": "dead"})).status == 202
            await bench.until(lambda: bench.model.health._num_failures[1] > 0)
            assert await names(bench) == {"e0": "ready", "dead": "joining"}
            assert [await placed(bench) for _ in range(3)] == ["e0"] * 3
            assert (await bench.get(b"/state")).json["instances"][1]["group"] == "joining"
            await delete(bench, "dead")
            await bench.until(lambda: len(bench.model.instances) == 1)
            await bench.settle()

    run(main)


def test_a_journal_has_who_joined_and_left(tmp_path, capsys):
    """A replay makes every decision again across it, and tells the names."""
    path = tmp_path / "journal"

    async def main():
        async with Bench(1, server=ADMIN, health=WELL, journal={"file": str(path)}) as bench:
            engine = await bench.add_engine()
            await post(bench, {"url": engine.url, "name": "late"})
            await bench.until(lambda: bench.model.instances[1].closed == FITS)
            for _ in range(5):
                await placed(bench, stream=True)
            await delete(bench, "e0")
            await bench.until(lambda: len(bench.model.instances) == 1)
            for _ in range(5):
                assert await placed(bench, stream=True) == "late"
            await bench.settle()

    run(main)
    journal, found = JournalReader(path), Replayed()
    replay(journal, found)
    assert found.difference is None
    assert found.num_inputs > 20
    assert (found.joined, found.left) == (["late"], ["e0"])
    assert list(journal.head.instances) == ["e0"]
    assert any("late joined, e0 left" in note for note in relive([JournalReader(path)]).notes)
    with pytest.raises(SystemExit) as over:
        cli(["replay", str(path)])
    assert over.value.code == 0
    shown = capsys.readouterr().out
    assert "instances that joined" in shown
    assert "late" in shown
