"""What users of other gateways rely on: probes, loads, the names of requests and sessions, refusals, hints."""

from __future__ import annotations

import logging

import orjson
import pytest
from gateway_bench import CHAT, COMPLETIONS, Bench, chat, completion, run

from polyslo.core.state import UNHEALTHY
from polyslo.gateway.journal.reader import JournalReader
from polyslo.gateway.journal.records import Arrival
from polyslo.gateway.journal.replay import Replayed, replay
from polyslo.gateway.requests.keys import hash_of

REASON = b"x-llm-d-request-dropped-reason"


def test_probes_tell_readiness_from_life():
    """With an instance all are 200; without one the process lives but is not ready: 503 and when to ask again."""

    async def main():
        async with Bench(1) as bench:
            for path in (b"/health", b"/readiness", b"/liveness"):
                assert (await bench.ask(path, method=b"GET")).status == 200
            bench.model.close_instance(0, UNHEALTHY)
            for path in (b"/health", b"/readiness"):
                probe = await bench.ask(path, method=b"GET")
                assert (probe.status, probe.header(b"retry-after")) == (503, b"1")
            assert (await bench.ask(b"/liveness", method=b"GET")).status == 200
            refused = await bench.ask(COMPLETIONS, completion())
            assert (refused.status, refused.code, refused.header(b"retry-after")) == (503, "no_instance", b"1")

    run(main)


def test_loads_are_told_of_each_instance():
    """What runs, what is queued and the KV that is believed."""

    async def main():
        async with Bench(1) as bench:
            running = bench.send(COMPLETIONS, completion(100_000, stream=True))
            await running.until(lambda reply: reply.body)
            (load,) = (await bench.get(b"/get_loads")).json["loads"]
            assert (load["worker"], load["load"]) == (bench.engines[0].url, 1)
            assert load["committed_tokens"] > 0
            running.call.abort()
            await bench.settle()

    run(main)


@pytest.mark.parametrize("name", [b"x-session-id", b"x-dynamo-session-id", b"x-session-token"])
def test_a_session_is_echoed_and_logged(name, caplog):
    """By the one canonical header, however it was named."""

    async def main():
        async with Bench(1) as bench:
            with caplog.at_level(logging.INFO, "polyslo"):
                reply = await bench.ask(COMPLETIONS, completion(stream=True), [(name, b"caf\xe9 7")])
            assert reply.header(b"x-session-id") == b"caf\xe9 7"
            await bench.settle()
            assert "caf\u00e9 7" in [record.told.get("session") for record in caplog.records if hasattr(record, "told")]

    run(main)


@pytest.mark.parametrize("name", [b"x-request-id", b"x-correlation-id"])
@pytest.mark.parametrize("how", ["served", "refused", "malformed", "stranger"])
def test_a_request_id_comes_back_whatever_the_answer(name, how):
    """Also with a 503, a 400 and a 401; a request that names none and is served gets one."""
    keys = {"a": {"hash": hash_of(b"a")}}

    async def main():
        async with Bench(1, keys=keys) as bench:
            headers = [(name, b"mine"), (b"authorization", b"Bearer b" if how == "stranger" else b"Bearer a")]
            if how == "refused":
                bench.model.close_instance(0, UNHEALTHY)
            body = b"{" if how == "malformed" else completion()
            reply = await bench.ask(COMPLETIONS, body, headers)
            assert reply.status == {"served": 200, "refused": 503, "malformed": 400, "stranger": 401}[how]
            assert reply.header(b"x-request-id") == b"mine"
            if how == "served":
                own = await bench.ask(COMPLETIONS, completion(), headers[1:])
                assert own.header(b"x-request-id").startswith(b"req-")
            await bench.settle()

    run(main)


def test_a_full_gateway_says_why_and_when_to_come_back():
    """429 with Retry-After and the llm-d router's word for it."""

    async def main():
        async with Bench(1, server={"max_concurrent_requests": 1, "queue_size": 0}) as bench:
            running = bench.send(COMPLETIONS, completion(100_000, stream=True))
            await running.until(lambda reply: reply.body)
            reply = await bench.ask(COMPLETIONS, completion())
            assert (reply.status, reply.header(REASON)) == (429, b"rejected-saturated")
            assert reply.header(b"retry-after") == b"1"
            running.call.abort()
            await bench.settle()

    run(main)


@pytest.mark.parametrize(("hint", "max_tokens", "believed"), [(37, 1000, 37), (5000, 1000, 1000), (None, 1000, None)])
@pytest.mark.parametrize(("path", "make"), [(COMPLETIONS, completion), (CHAT, chat)], ids=["completion", "chat"])
def test_the_expected_output_length_is_believed(hint, max_tokens, believed, path, make, tmp_path):
    """`nvext.agent_hints.osl`, at most `max_tokens`, counts in decisions, in a replay too; engines never see it."""
    journal = tmp_path / "journal"

    async def main():
        async with Bench(1, journal={"file": str(journal)}) as bench:
            bench.engines[0].engine.stall(3600.0 * 50)
            more = {} if hint is None else {"nvext": {"agent_hints": {"osl": hint}}}
            reply = bench.send(path, make(max_tokens, stream=True, **more))
            await bench.until(lambda: bench.engines[0].engine.num_residents)
            (relay,) = [relay for relay in bench.model.relays if relay]
            expected = int(bench.model.fleet.requests["expected_tokens"][relay.r])
            assert expected == believed if believed else 0 < expected < 1000
            assert "nvext" not in orjson.loads(relay.body)
            reply.call.abort()
            await bench.settle()

    run(main)
    reader, found = JournalReader(journal), Replayed()
    replay(reader, found)
    assert found.difference is None
    (arrival,) = [record for record in JournalReader(journal).records() if isinstance(record, Arrival)]
    assert arrival.expected_tokens == (believed or 0)
