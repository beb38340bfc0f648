"""Best-effort streams under way give their instance up at once, and their clients see one stream all the same."""

from __future__ import annotations

import orjson
import pytest
from gateway_bench import CHAT, COMPLETIONS, MODEL, Bench, chat, completion, num_tokens, run
from journal_in_memory import JournalInMemory

from polyslo.core.state import DRAINING, FITS
from polyslo.engines.answers import JSON
from polyslo.wire.client import Origin

LATE = [(b"x-llm-d-slo-ttft-ms", b"0.001")]
LOOSE = {"chat": {"ttft_ms": 3_600_000, "tpot_ms": 1000}}  # which a whole prompt in one step keeps, too
USAGE = {"stream_options": {"include_usage": True}}
TOKENS = 300
SLOW = 2.0  # times the profile: an answer takes longer than anything else that is waited for


def _events(body):
    return [orjson.loads(line[6:]) for line in body.split(b"\n\n") if line[6:] not in (b"", b"[DONE]")]


def _text(body):
    choices = [event["choices"][0] for event in _events(body) if event["choices"]]
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content") or "" for choice in choices)


def _bench(num_engines=1, **health):
    return Bench(num_engines, speed=SLOW, classes=LOOSE, health={"interval_s": 60.0, **health})


async def _uninterrupted(bench, path, body):
    """Return what an engine answers that nobody interrupts."""
    origin = Origin(bench.engines[0].url)
    reply = await bench.ask(path, body, origin=origin)
    await origin.close()
    return reply.body


async def _begin_late(bench, path, body):
    """Send a request that is relegated, and let its engine hold it after some tokens."""
    late = bench.send(path, body, LATE)
    await late.until(lambda reply: len(_events(reply.body)) > 3)
    bench.hold()
    return late


async def _claim(bench):
    """Send a request in time, for which the late one gives up the instance."""
    urgent = bench.send(COMPLETIONS, completion(9, stream=True))
    await bench.until(lambda: any(relay and relay.at.instance is None for relay in bench.model.relays))
    return urgent


def _watch(bench, answer=lambda exchange: False):
    """Return the bodies that the engine is sent; `answer` may answer in its place."""
    seen, listener = [], bench.engines[0]._listener
    handle = listener.handler

    def watched(exchange):
        if exchange.method == b"POST":
            seen.append(orjson.loads(exchange.body))
        if not answer(exchange):
            handle(exchange)

    listener.handler = watched
    return seen


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, completion(TOKENS, prompt=[7] * 3000, stream=True, **USAGE)),
        (COMPLETIONS, completion(TOKENS, prompt="to " * 4000, stream=True, **USAGE)),
        (CHAT, chat(TOKENS, prompt="to " * 4000, stream=True, **USAGE)),
    ],
    ids=["token ids", "text", "chat"],
)
def test_a_stream_goes_on_where_its_instance_was_claimed(path, body):
    """The client gets what an uninterrupted request gives, to the last count; the claim is served meanwhile."""

    async def main():
        async with _bench() as bench:
            whole = await _uninterrupted(bench, path, body)
            journal, seen = JournalInMemory(bench.model.decider, "polyserve"), _watch(bench)
            late = await _begin_late(bench, path, body)
            urgent = await _claim(bench)
            so_far = _text(late.body)
            bench.go_on()
            await urgent.over()
            await late.over()
            assert (late.failure, num_tokens(urgent.body)) == (None, 9)
            assert 0 < len(so_far) < len(_text(whole))
            assert _text(late.body) == _text(whole)
            assert _events(late.body)[-1]["usage"] == _events(whole)[-1]["usage"]
            assert len({event["id"] for event in _events(late.body)}) == 1
            assert late.body.count(b'"role"') == (path == CHAT)
            assert late.body.endswith(b"data: [DONE]\n\n")
            assert [asked["max_tokens"] < TOKENS for asked in seen] == [False, True, True]
            await bench.settle()
            assert bench.gateway.boards[MODEL].totals["failed"] == 0
            bench.model.stop()
            journal.check()

    run(main)


def test_a_stream_goes_on_elsewhere_while_its_instance_is_at_work():
    """The next instance that is idle takes it, and one more claim moves it again; nothing is said twice."""
    body = completion(TOKENS, prompt=[7] * 3000, stream=True)

    async def main():
        async with _bench(2) as bench:
            whole = await _uninterrupted(bench, COMPLETIONS, body)
            bench.model.close_instance(1, DRAINING)
            late = await _begin_late(bench, COMPLETIONS, body)
            urgent = await _claim(bench)
            begun = len(_events(late.body))
            bench.model.close_instance(1, FITS)
            await late.until(lambda reply: len(_events(reply.body)) > begun)
            assert not urgent.is_over
            bench.go_on()
            await urgent.over()
            await late.over()
            assert _text(late.body) == _text(whole)
            await bench.settle()

    run(main)


def test_a_stream_that_nobody_can_go_on_with_stays():
    """A seed begins again with the rest: so it goes on beside the one that claimed the instance, and both are whole."""
    body = completion(TOKENS, prompt=[7] * 3000, stream=True, seed=1)

    async def main():
        async with _bench() as bench:
            journal, seen = JournalInMemory(bench.model.decider, "polyserve"), _watch(bench)
            late = await _begin_late(bench, COMPLETIONS, body)
            urgent = bench.send(COMPLETIONS, completion(9, stream=True))
            await bench.until(lambda: bench.engines[0].engine.num_residents == 2)
            bench.go_on()
            await urgent.over()
            await late.over()
            assert [num_tokens(reply.body) for reply in (urgent, late)] == [9, TOKENS]
            assert len(seen) == 2
            await bench.settle()
            bench.model.stop()
            journal.check()

    run(main)


@pytest.mark.parametrize(("status", "num_times"), [(400, 99), (503, 1)])
def test_an_engine_that_does_not_go_on_is_no_silent_end(status, num_times):
    """Refused everywhere, the client's stream is cut; refused once, yet another try goes on with it."""
    body, refused = chat(TOKENS, prompt="to " * 4000, stream=True), []

    def refuse(exchange):
        if b"continue_final_message" not in exchange.body or len(refused) == num_times:
            return False
        refused.append(exchange)
        exchange.respond(status, JSON, b'{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}')
        return True

    async def main():
        async with _bench(failure_threshold=9) as bench:
            whole = await _uninterrupted(bench, CHAT, body)
            _watch(bench, refuse)
            late = await _begin_late(bench, CHAT, body)
            urgent = await _claim(bench)
            bench.go_on()
            await urgent.over()
            await late.over()
            is_lost = num_times > 1
            assert (late.failure is not None) == is_lost
            assert len(refused) == (3 if is_lost else 1)  # tried twice again
            assert is_lost or _text(late.body) == _text(whole)
            await bench.settle()
            assert bench.gateway.boards[MODEL].totals["failed"] == is_lost

    run(main)


def test_an_engine_that_states_no_counts_gets_the_request_as_it_came():
    """One that refuses to be asked for more than its client did is asked again without; what is wrong stays wrong."""

    def refuse(exchange):
        if is_strict := b"continuous_usage_stats" in exchange.body or b"wrong" in exchange.body:
            exchange.respond(400, JSON, b'{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}')
        return is_strict

    async def main():
        async with _bench() as bench:
            seen = _watch(bench, refuse)
            late = await bench.ask(COMPLETIONS, completion(20, prompt=[7] * 3000, stream=True), LATE)
            assert (late.status, num_tokens(late.body), len(seen)) == (200, 20, 2)
            wrong = await bench.ask(COMPLETIONS, completion(20, prompt="wrong " * 3000, stream=True), LATE)
            assert (wrong.status, len(seen)) == (400, 4)
            await bench.settle()
            assert bench.gateway.boards[MODEL].totals["failed"] == 0

    run(main)


def test_a_client_that_leaves_between_two_instances_is_forgotten():
    """Nobody goes on with what nobody reads."""

    async def main():
        async with _bench() as bench:
            seen = _watch(bench)
            late = await _begin_late(bench, COMPLETIONS, completion(TOKENS, prompt=[7] * 3000, stream=True))
            urgent = await _claim(bench)
            late.call.abort()
            await bench.until(lambda: bench.model.num_in_flight == 1)
            bench.go_on()
            await urgent.over()
            await bench.settle()
            assert len(seen) == 2

    run(main)
