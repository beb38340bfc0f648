"""Requests of a best-effort class: they run where nobody else needs the room, and are told apart from all others."""

from __future__ import annotations

import logging
import re

import orjson
import pytest
from gateway_bench import COMPLETIONS, MODEL, Bench, completion, num_tokens, run
from journal_in_memory import JournalInMemory

from polyslo.gateway.journal.records import Arrival
from polyslo.gateway.journal.requests import RequestsSeen, live_scores
from polyslo.gateway.requests.keys import hash_of

LOOSE = {"ttft_ms": 3_600_000, "tpot_ms": 1000}  # which a whole prompt in one step keeps, too
CLASSES = {"chat": LOOSE, "batch": {"best_effort": True}}
BATCH = [(b"x-llm-d-inference-objective", b"batch"), (b"x-polyslo-explain", b"1"), (b"x-request-id", b"night")]
CHUNKS = {"dynamic_chunking": True}


def _bench(num_engines=1, **more):
    return Bench(num_engines, speed=2.0, classes=CLASSES, health={"interval_s": 60.0}, **more)


def _text(body):
    events = [orjson.loads(line[6:]) for line in body.split(b"\n\n") if line[6:] not in (b"", b"[DONE]")]
    return "".join(event["choices"][0]["text"] for event in events if event["choices"])


async def _numbers(bench, *names):
    """Return metrics with their labels."""
    text = (await bench.get(b"/metrics")).body.decode()
    return {name: float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1]) for name in names}


async def _state(bench):
    return (await bench.get(b"/state")).json


def _counted(name):
    return f'polyslo_{name}{{model="{MODEL}",slo_tier="best-effort"}}'


@pytest.mark.parametrize("processes", [1, 2])
def test_it_runs_on_an_idle_instance_and_gives_way_to_who_has_an_slo(processes, caplog):
    """Its stream stops for a request in time, goes on where it was, and is whole; a second one waits meanwhile."""
    caplog.set_level(logging.INFO, logger="polyslo")
    body = completion(300, prompt=[7] * 3000, stream=True)

    async def main():
        async with _bench(server={"processes": processes}) as bench:
            whole = await bench.ask(COMPLETIONS, body)
            night = bench.send(COMPLETIONS, body, BATCH)
            await night.until(lambda reply: num_tokens(reply.body) > 3)
            assert (night.header(b"x-polyslo-tier"), night.header(b"x-polyslo-rung")) == (b"best-effort", b"none")
            assert night.header(b"x-polyslo-predicted-ttft-ms") is None
            bench.hold()
            assert (await _state(bench))["best_effort"] == {"num_running": 1, "num_waiting": 0}
            urgent = bench.send(COMPLETIONS, completion(9, stream=True))
            await bench.until(lambda: bench.model.fleet.pending_size[-1] == 1)
            state = await _state(bench)
            assert state["best_effort"] == {"num_running": 0, "num_waiting": 1}
            assert [tier["num_running"] for tier in state["tiers"]] == [1]
            shown = next(request for request in state["requests"] if request["id"] == "night")
            assert (shown["tier"], shown["stage"], shown["slack_s"]) == (None, "relegated", None)
            bench.go_on()
            await urgent.over()
            await night.over()
            assert (urgent.status, num_tokens(urgent.body), night.failure) == (200, 9, None)
            assert _text(night.body) == _text(whole.body)
            await bench.settle()
            story = (await bench.get(b"/requests/night")).json
            assert (story["tier"], story["slo"], story["outcome"], story["attained"]) == (None, None, "served", None)
            assert [step["kind"] for step in story["steps"]].count("placed") == 2
            totals = (await _state(bench))["totals"]
            assert (totals["served"], totals["attained"], totals["missed"]) == (1, 2, 0)
            assert await _numbers(bench, _counted("request_total"), _counted("output_tokens_total"),
                                  _counted("slo_requests_total"), _counted("relegations_total")) == {
                _counted("request_total"): 1, _counted("output_tokens_total"): 300,
                _counted("slo_requests_total"): 0, _counted("relegations_total"): 0,
            }  # fmt: skip

    run(main)
    line = next(record.told for record in caplog.records if getattr(record, "told", {}).get("request_id") == "night")
    assert (line["slo_tier"], line["outcome"], line["is_relegated"], line["tries"]) == (
        "best-effort", "served", False, 2,
    )  # fmt: skip
    assert "ttft_slo_ms" not in line


def test_it_runs_beside_others_on_a_tiers_spare_room():
    """With `spare_ratio` and no idle instance it is hosted; who needs the room gets it, and the stream is whole."""
    body = completion(300, prompt=[7] * 3000, stream=True)

    async def main():
        async with _bench(model={**CHUNKS, "spare_ratio": 0.5}) as bench:
            whole = await bench.ask(COMPLETIONS, body)
            day = bench.send(COMPLETIONS, completion(300, stream=True))
            await day.until(lambda reply: num_tokens(reply.body) > 1)
            night = bench.send(COMPLETIONS, body, BATCH)
            await night.until(lambda reply: num_tokens(reply.body) > 3)
            assert not day.is_over
            assert bench.model.fleet.instances["num_best_effort"].sum() == 1
            urgent = bench.send(COMPLETIONS, completion(9, prompt=[7] * 2000, stream=True))
            await bench.until(lambda: bench.model.fleet.instances["num_best_effort"].sum() == 0)
            for reply in (day, urgent, night):
                await reply.over()
            assert (num_tokens(day.body), num_tokens(urgent.body), night.failure) == (300, 9, None)
            assert _text(night.body) == _text(whole.body)
            await bench.settle()

    run(main)


def test_its_journal_is_replayed_and_scored_without_it():
    """Decisions are made again bit for bit; arrivals say that it had no SLO, so no score counts it."""

    async def main():
        async with _bench() as bench:
            journal = JournalInMemory(bench.model.decider, "polyserve")
            assert (await bench.ask(COMPLETIONS, completion(), BATCH)).status == 200
            assert (await bench.ask(COMPLETIONS, completion())).status == 200
            await bench.settle()
            bench.model.stop()
            journal.check()
            arrivals = [record for record in journal.records if isinstance(record, Arrival)]
            assert [arrival.is_best_effort for arrival in arrivals] == [True, False]
            seen = RequestsSeen()
            for record in journal.records:
                seen.take(record)
            assert [score.num_open for score in live_scores(seen.requests, [1.0])] == [1, 1]

    run(main)


def test_a_key_must_be_allowed_to_ask_for_it():
    """Who may name `chat` only is told so; the key whose default is `batch` says nothing and gets it."""
    keys = {
        "day": {"hash": hash_of(b"day"), "classes": ["chat"]},
        "night": {"hash": hash_of(b"night"), "classes": ["batch"], "default": "batch"},
    }

    async def main():
        async with _bench(keys=keys) as bench:
            refused = await bench.ask(COMPLETIONS, completion(), [(b"authorization", b"Bearer day"), *BATCH])
            assert (refused.status, refused.code) == (403, "slo_class_not_allowed")
            explained = [(b"authorization", b"Bearer night"), (b"x-polyslo-explain", b"1")]
            granted = await bench.ask(COMPLETIONS, completion(), explained)
            assert (granted.status, granted.header(b"x-polyslo-tier")) == (200, b"best-effort")

    run(main)


def test_where_the_policy_knows_no_best_effort_it_goes_where_others_go():
    """`minimal` sends it to the least loaded instance; it still has no SLO to miss."""

    async def main():
        async with _bench(model={"policy": "minimal"}) as bench:
            reply = await bench.ask(COMPLETIONS, completion(), BATCH)
            assert (reply.status, reply.header(b"x-polyslo-rung")) == (200, b"own")
            assert bench.gateway.boards[MODEL].totals["served"] == 1

    run(main)
