"""The gateway through real sockets: answers, SLOs, keys, routes, bounds, shutdown."""

from __future__ import annotations

import asyncio
import sys

import orjson
import pytest
from gateway_bench import CHAT, COMPLETIONS, MODEL, SPEED, Bench, ask_for, chat, completion, num_tokens, plain, run

from polyslo.gateway.relays.counting import Tally
from polyslo.gateway.relays.near_relay import NearRelay
from polyslo.gateway.requests.keys import hash_of
from polyslo.wire.client import Origin

TTFT, TPOT = b"x-llm-d-slo-ttft-ms", b"x-llm-d-slo-tpot-ms"
SAME = (b"x-request-id", b"same")
EMBEDDINGS, EMBED = b"/v1/embeddings", {"model": MODEL, "input": "once upon a time"}
ONE_AT_A_TIME = {
    "alice": {"hash": hash_of(b"one at a time"), "max_concurrent_requests": 1},
    "bob": {"hash": hash_of(b"another")},
}
ALICE, BOB = [(b"authorization", b"Bearer one at a time")], [(b"authorization", b"Bearer another")]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(("path", "make"), [(COMPLETIONS, completion), (CHAT, chat)], ids=["completion", "chat"])
def test_an_answer_is_the_engines_own_to_the_byte(path, make, stream):
    """Body and content type are what the engine itself answers to the same request; ours are the headers x-….

    Left out: when it was created, the engine's `date`, and how the body is framed.
    """

    async def main():
        async with Bench() as bench:
            body = make(20, stream=stream, **({"stream_options": {"include_usage": True}} if stream else {}))
            direct = Origin(bench.engines[0].url)
            own = await bench.ask(path, body, [SAME], origin=direct)
            ours = await bench.ask(path, body, [SAME])
            await direct.close()
            assert ours.status == own.status == 200
            assert plain(ours.body) == plain(own.body)
            differ = {name for name, _ in set(ours.headers) ^ set(own.headers)}
            assert differ <= {b"x-request-id", b"content-length", b"transfer-encoding", b"connection", b"date"}
            assert ours.header(b"content-type") == own.header(b"content-type")
            assert ours.header(b"x-request-id") == b"same"
            await bench.settle()
            assert bench.gateway.boards[MODEL].totals["attained"] == 1
            assert bench.gateway.boards[MODEL].num_tokens == 20

    run(main)


def test_many_at_once_all_end_and_leave_nothing_behind():
    """Sixty mixed requests over three engines: each gets its own tokens; then every count is zero again."""

    async def main():
        async with Bench(3) as bench:
            await ask_for(bench, [3 + 7 * k % 40 for k in range(60)])
            await bench.settle()
            assert bench.gateway.boards[MODEL].totals["attained"] == 60

    run(main)


def test_an_slo_too_tight_is_clamped_and_told():
    """The tightest tier is 50 ms: a wish of 20 is granted as 50, and the response says so."""

    async def main():
        async with Bench() as bench:
            reply = await bench.ask(COMPLETIONS, completion(), [(TPOT, b"20")])
            assert reply.status == 200
            assert reply.header(b"x-polyslo-slo-clamped") == b"tpot_ms=20->50"

    run(main)


def test_an_slo_too_tight_is_refused_where_that_is_asked_for():
    """The same wish is a 429 slo-infeasible that no client should repeat."""

    async def main():
        async with Bench(slo={"on_tighter": "refuse"}) as bench:
            reply = await bench.ask(COMPLETIONS, completion(), [(TPOT, b"20")])
            assert (reply.status, reply.code) == (429, "slo_infeasible")
            assert reply.header(b"x-llm-d-request-dropped-reason") == b"slo-infeasible"
            assert reply.header(b"x-should-retry") == b"false"
            assert reply.header(b"retry-after") is not None

    run(main)


@pytest.mark.parametrize("value", [b"soon", b"-1", b"0", b"nan", b"1_000", b"1e99", b"", b"1,2"])
def test_a_malformed_slo_is_a_400_that_names_its_header(value):
    """Never a silent default; and nothing is taken in."""

    async def main():
        async with Bench() as bench:
            reply = await bench.ask(COMPLETIONS, completion(), [(TTFT, value)])
            assert reply.status == 400
            assert reply.json["error"]["param"] == TTFT.decode()
            assert TTFT.decode() in reply.json["error"]["message"]
            assert bench.gateway.places.num_taken == 0

    run(main)


def test_keys_open_the_gateway_and_are_not_passed_on():
    """No key and a wrong one are the same 401; a class that a key may not name is a 403; the right one is served."""
    keys = {"alice": {"hash": hash_of(b"open sesame"), "classes": ["chat"]}}
    classes = {"chat": {"ttft_ms": 3_600_000, "tpot_ms": 50}, "voice": {"ttft_ms": 3_600_000, "tpot_ms": 30}}

    async def main():
        async with Bench(keys=keys, classes=classes) as bench:
            bare = await bench.ask(COMPLETIONS, completion())
            wrong = [
                await bench.ask(COMPLETIONS, completion(), [(b"authorization", value)])
                for value in (b"Bearer open sesam", b"Basic open sesame", b"Bearer", b"Bearer open sesame, open sesame")
            ]
            assert {reply.status for reply in (bare, *wrong)} == {401}
            assert len({reply.body for reply in wrong if b"unknown" in reply.body}) == 1
            assert bare.header(b"www-authenticate") == b"Bearer"
            right = [(b"authorization", b"Bearer open sesame")]
            assert (await bench.ask(COMPLETIONS, completion(), right)).status == 200
            voice = await bench.ask(COMPLETIONS, completion(), [*right, (b"x-llm-d-inference-objective", b"voice")])
            assert (voice.status, voice.code) == (403, "slo_class_not_allowed")
            assert (await bench.ask(b"/v1/models", method=b"GET")).status == 401
            assert (await bench.ask(b"/health", method=b"GET")).status == 200

    run(main)


def test_what_is_not_there_is_told():
    """Unknown models and paths are 404, wrong methods 405, bodies that can't be read 400; nothing else is touched."""

    async def main():
        async with Bench() as bench:
            unknown = await bench.ask(COMPLETIONS, {**completion(), "model": "other"})
            assert (unknown.status, unknown.code) == (404, "model_not_found")
            assert MODEL in unknown.json["error"]["message"]
            assert (await bench.ask(b"/faults", {"kind": "crash"})).status == 404
            assert (await bench.ask(b"/metrics", method=b"GET")).status == 404
            assert (await bench.ask(COMPLETIONS, method=b"GET")).status == 405
            for path in (b"/v1/%63ompletions", b"/v1/chat%2Fcompletions"):
                assert (await bench.ask(path, completion())).status == 404
            for body in (b"", b"[]", b"{", b'{"model":"emulated"}', b'{"model":7,"prompt":"x"}'):
                assert (await bench.ask(COMPLETIONS, body)).status == 400
            bench.check_empty()

    run(main)


def test_a_prompt_that_no_instance_holds_is_refused_at_the_door():
    """A prompt of more tokens than an engine's KV cache is a 400 with OpenAI's code, and no engine hears of it."""

    async def main():
        async with Bench(model={"kv_capacity_tokens": 1000}) as bench:
            reply = await bench.ask(COMPLETIONS, completion(prompt=list(range(1000))))
            assert (reply.status, reply.code) == (400, "context_length_exceeded")
            assert reply.json["error"]["param"] == "prompt"
            assert bench.engines[0].engine.num_prompt_tokens == 0

    run(main)


def test_what_an_engine_finds_wrong_is_passed_on_and_nobodys_miss():
    """An engine's own 400 comes through as it is, at the first try, and does not count as a miss."""

    async def main():
        async with Bench(2) as bench:
            reply = await bench.ask(COMPLETIONS, completion(10_000_000))
            assert (reply.status, reply.json["error"]["type"]) == (400, "BadRequestError")
            await bench.settle()
            assert bench.gateway.boards[MODEL].totals["rejected"] == 1
            assert bench.gateway.boards[MODEL].windows[0].count(12) == (0, 0)

    run(main)


def test_other_routes_are_passed_on_to_an_instance():
    """Models, one model and token counts come from an engine; what lies outside /v1/ is not for everybody."""

    async def main():
        async with Bench() as bench:
            listed = await bench.ask(b"/v1/models", method=b"GET")
            assert [card["id"] for card in listed.json["data"]] == [MODEL]
            counted = await bench.ask(b"/tokenize", {"model": MODEL, "prompt": "once upon a time"})
            assert counted.json["count"] == 4
            assert (await bench.ask(b"/tokenize", {"model": "other", "prompt": "x"})).status == 404
            nowhere = await bench.ask(b"/v1/nowhere", {"model": MODEL})
            assert (nowhere.status, nowhere.json["error"]["type"]) == (404, "NotFoundError")

    run(main)


def test_several_models_are_listed_together():
    """Each is asked at one of its instances; one whose instances are gone is still listed."""

    async def main():
        async with Bench(1) as bench:
            other = {"name": "other", "endpoints": [{"url": "http://127.0.0.1:9"}]}
            mine = {"name": MODEL, "speed": SPEED, "endpoints": [{"url": bench.engines[0].url}]}
            async with Bench(0, models=[mine, other]) as both:
                listed = (await both.ask(b"/v1/models", method=b"GET")).json
                assert listed["object"] == "list"
                assert [(card["id"], card["owned_by"]) for card in listed["data"]] == [
                    (MODEL, "vllm"),
                    ("other", "polyslo"),
                ]
                assert (await both.ask(COMPLETIONS, completion())).status == 200

    run(main)


@pytest.mark.parametrize("headers", [b"", b"Content-Type: text/plain\r\n"])
@pytest.mark.parametrize("name", [b'name="model"', b"name=model"])
def test_a_form_goes_to_the_model_that_it_names(name, headers):
    """As audio comes in: the part is found among others, whatever they hold; a model that is not there is a 404."""

    def form(model):
        parts = [
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="model"\r\n\r\n',
            b'name="model"\r\n\r\nother\r\n',
            b"--b\r\n%bContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (headers, name, model),
            b'--b\r\nContent-Disposition: form-data; name="language"\r\n\r\nen\r\n--b--\r\n',
        ]
        return b"".join(parts)

    async def main():
        async with Bench() as bench:
            kind = [(b"content-type", b"multipart/form-data; boundary=b")]
            missing = await bench.ask(b"/v1/audio/transcriptions", form(b"whisper"), kind)
            assert (missing.status, missing.code) == (404, "model_not_found")
            served = await bench.ask(b"/v1/audio/transcriptions", form(MODEL.encode()), kind)
            assert (served.status, served.json["error"]["type"]) == (404, "NotFoundError"), served.body

    run(main)


def test_a_ttft_that_no_instance_can_give_is_named():
    """Refused where that is configured, with the fastest for this prompt; else clamped to it, and told."""
    wish, long = [(b"x-slo-ttft-ms", b"0.02")], completion(prompt="word " * 4000)

    async def main():
        async with Bench(slo={"on_tighter": "refuse"}) as bench:
            refused = await bench.ask(COMPLETIONS, long, wish)
            assert (refused.status, refused.code) == (429, "slo_infeasible")
            message = refused.json["error"]["message"]
            assert message.startswith(
                "x-slo-ttft-ms: the fastest ttft_ms that an idle instance can give this prompt is "
            )
            fastest = message.split("ask for ")[1].split(" ")[0]
            granted = await bench.ask(
                COMPLETIONS, completion(prompt="word " * 4000), [(b"x-slo-ttft-ms", fastest.encode())]
            )
            assert granted.status == 200
            assert granted.header(b"x-polyslo-slo-clamped") is None
        async with Bench() as bench:
            clamped = await bench.ask(COMPLETIONS, long, wish)
            assert clamped.status == 200
            told, _, granted_ms = clamped.header(b"x-polyslo-slo-clamped").partition(b"->")
            assert told == b"ttft_ms=0.02"
            assert float(granted_ms) == pytest.approx(float(fastest), abs=0.01)

    run(main)


@pytest.mark.parametrize("name", [b"caf\xe9", b"a b", b'"quoted"', b"x" * 256])
def test_a_request_id_is_echoed_as_it_came(name):
    """Whatever a header can hold and a person can read comes back to the byte."""

    async def main():
        async with Bench() as bench:
            reply = await bench.ask(COMPLETIONS, completion(), [(b"x-request-id", name)])
            assert (reply.status, reply.header(b"x-request-id")) == (200, name)

    run(main)


@pytest.mark.parametrize("name", [b"x" * 257, b"tab\tin it", b"soft\xadhyphen", b""])
def test_a_request_id_that_nobody_can_read_is_a_400(name):
    """Never a 500, and never a header that we could not send back."""

    async def main():
        async with Bench() as bench:
            reply = await bench.ask(COMPLETIONS, completion(), [(b"x-request-id", name)])
            assert (reply.status, reply.json["error"]["param"]) == (400, "x-request-id")

    run(main)


def test_receipts_say_what_was_decided():
    """Tier, rung, instance, forecasts and wait, each once; none without asking, none where they are switched off."""

    async def main():
        async with Bench() as bench:
            reply = await bench.ask(COMPLETIONS, completion(stream=True), [(b"x-polyslo-explain", b"1")])
            told = {name: value for name, value in reply.headers if name.startswith(b"x-polyslo-")}
            assert set(told) == {
                b"x-polyslo-" + name
                for name in (b"tier", b"rung", b"instance", b"predicted-ttft-ms", b"predicted-tpot-ms", b"queue-ms")
            }
            assert (told[b"x-polyslo-tier"], told[b"x-polyslo-rung"]) == (b"50ms", b"scaled_up")
            assert told[b"x-polyslo-instance"] == b"e0"
            silent = await bench.ask(COMPLETIONS, completion())
            assert not [name for name, _ in silent.headers if name.startswith(b"x-polyslo-")]
        async with Bench(telemetry={"receipts": "never"}) as bench:
            reply = await bench.ask(COMPLETIONS, completion(), [(b"x-polyslo-explain", b"1")])
            assert not [name for name, _ in reply.headers if name.startswith(b"x-polyslo-")]

    run(main)


def test_the_slo_reaches_engines_that_read_it():
    """With dynamic chunking the engine is told pace and due time; the caller's own arguments stay."""

    async def main():
        async with Bench(model={"dynamic_chunking": True}) as bench:
            for body in (completion(5), {key: value for key, value in completion(8).items() if key != "vllm_xargs"}):
                assert (await bench.ask(COMPLETIONS, body)).status == 200
            jobs = bench.engines[0].engine._world.jobs[:2]
            assert jobs["tpot_s"] == pytest.approx(0.05 * 50)
            assert (await bench.ask(COMPLETIONS, completion(vllm_xargs=7))).status == 400
            deep = b'{"a":' * 300 + b"1" + b"}" * 300
            body = orjson.dumps(completion())[:-1] + b',"deep":' + deep + b"}"
            assert (await bench.ask(COMPLETIONS, body)).status == 200
            await bench.settle()

    run(main)


def test_a_full_fleet_refuses_with_429_and_when_to_come_back():
    """With `refuse` a request that can't have its first token in time is answered at once; nothing stays behind."""

    async def main():
        async with Bench(model={"refuse": True}) as bench:
            reply = await bench.ask(COMPLETIONS, completion(prompt=[7] * 5000), [(TTFT, b"0.001")])
            assert (reply.status, reply.code) == (429, "slo_unattainable_now")
            assert reply.header(b"retry-after") == b"1"
            assert reply.header(b"x-request-id") is not None
            assert (await bench.ask(COMPLETIONS, completion())).status == 200
            await bench.settle()
            assert bench.gateway.boards[MODEL].totals["refused"] == 1
            assert [event["kind"] for event in bench.gateway.boards[MODEL].events if event["kind"] == "refusal"]

    run(main)


def test_a_request_that_is_late_is_served_after_all_others_by_default():
    """Without `refuse` the same request is relegated, and answered in full."""

    async def main():
        async with Bench() as bench:
            reply = await bench.ask(COMPLETIONS, completion(prompt=[7] * 5000, stream=True), [(TTFT, b"0.001")])
            assert (reply.status, num_tokens(reply.body)) == (200, 8)
            await bench.settle()
            assert bench.gateway.boards[MODEL].totals["missed"] == 1

    run(main)


def test_more_than_may_be_under_way_wait_in_line():
    """Of three requests one runs, one waits its turn and one is refused; the one in line then gets its place."""

    async def main():
        async with Bench(server={"max_concurrent_requests": 1, "queue_size": 1}) as bench:
            first = bench.send(COMPLETIONS, completion(100_000, stream=True))
            await first.until(lambda reply: reply.body)
            second = bench.send(COMPLETIONS, completion(3))
            while not bench.gateway.places.num_waiting:
                await asyncio.sleep(0.001)
            third = await bench.ask(COMPLETIONS, completion(3))
            assert (third.status, third.code) == (429, "saturated")
            assert third.header(b"retry-after") is not None
            assert not second.is_over
            first.call.abort()
            assert (await second.over()).status == 200
            await bench.settle()

    run(main)


def test_who_waits_too_long_in_line_is_told():
    """429 queue_timeout; and whoever leaves the line is forgotten at once."""

    async def main():
        server = {"max_concurrent_requests": 1, "queue_size": 2, "queue_timeout_s": 0.05}
        async with Bench(server=server) as bench:
            first = bench.send(COMPLETIONS, completion(100_000, stream=True))
            await first.until(lambda reply: reply.body)
            impatient = bench.send(COMPLETIONS, completion(3))
            while not bench.gateway.places.num_waiting:
                await asyncio.sleep(0.001)
            impatient.call.abort()
            while bench.gateway.places.num_waiting:
                await asyncio.sleep(0.001)
            late = await bench.ask(COMPLETIONS, completion(3))
            assert (late.status, late.code) == (429, "queue_timeout")
            assert late.header(b"x-llm-d-request-dropped-reason") == b"rejected-ttl-expired"
            first.call.abort()
            await bench.settle()

    run(main)


def test_a_key_has_so_many_requests_at_a_time():
    """The second of a key with one place is a 429, whoever else has room; its place comes back when the first ends."""

    async def main():
        async with Bench(keys=ONE_AT_A_TIME) as bench:
            first = bench.send(COMPLETIONS, completion(100_000, stream=True), ALICE)
            await first.until(lambda reply: reply.body)
            second = await bench.ask(COMPLETIONS, completion(), ALICE)
            assert (second.status, second.code) == (429, "saturated")
            assert (await bench.ask(COMPLETIONS, completion(), BOB)).status == 200
            first.call.abort()
            await bench.settle()
            assert (await bench.ask(COMPLETIONS, completion(), ALICE)).status == 200
            await bench.settle()

    run(main)


def test_what_is_passed_on_takes_a_place_like_any_other():
    """Embeddings fill the gateway as generations do, for both; only who asks for models is told all the time."""

    async def main():
        async with Bench(server={"max_concurrent_requests": 1, "queue_size": 1}) as bench:
            kept = keeping(bench)
            first = bench.send(EMBEDDINGS, EMBED)
            await bench.until(lambda: kept)
            assert bench.gateway.places.num_taken == 1
            second = bench.send(COMPLETIONS, completion(3))
            await bench.until(lambda: bench.gateway.places.num_waiting)
            for path, body in ((EMBEDDINGS, EMBED), (b"/tokenize", EMBED), (COMPLETIONS, completion(3))):
                third = await bench.ask(path, body)
                assert (third.status, third.code) == (429, "saturated")
                assert third.header(b"retry-after") is not None
            assert (await bench.ask(b"/v1/models", method=b"GET")).status == 200
            assert not second.is_over
            kept.pop().respond(200, [], b"{}")
            assert (await first.over()).body == b"{}"
            assert (await second.over()).status == 200
            await bench.settle()

    run(main)


def test_what_is_passed_on_counts_for_its_key():
    """A key with one place has it for embeddings or for a generation; other keys have theirs."""

    async def main():
        async with Bench(keys=ONE_AT_A_TIME) as bench:
            kept = keeping(bench)
            assert (await bench.ask(EMBEDDINGS, EMBED)).status == 401
            first = bench.send(EMBEDDINGS, EMBED, ALICE)
            await bench.until(lambda: kept)
            for path, body in ((EMBEDDINGS, EMBED), (COMPLETIONS, completion())):
                second = await bench.ask(path, body, ALICE)
                assert (second.status, second.code) == (429, "saturated")
            assert (await bench.ask(COMPLETIONS, completion(), BOB)).status == 200
            kept.pop().respond(200, [], b"{}")
            assert (await first.over()).status == 200
            await bench.settle()
            assert (await bench.ask(COMPLETIONS, completion(), ALICE)).status == 200
            await bench.settle()
            running = bench.send(COMPLETIONS, completion(100_000, stream=True), ALICE)
            await running.until(lambda reply: reply.body)
            assert (await bench.ask(EMBEDDINGS, EMBED, ALICE)).status == 429
            running.call.abort()
            await bench.settle()

    run(main)


@pytest.mark.parametrize("way", ["answered", "left", "cut", "failed", "late", "late in mid-answer"])
def test_what_is_passed_on_gives_its_place_back_once(way):
    """However it ends: the only place is there for the next one, and it is one place still."""
    server = {"max_concurrent_requests": 1, "queue_size": 0}
    if way.startswith("late"):
        server["request_timeout_s"] = 0.2

    async def main():
        async with Bench(server=server) as bench:
            kept = keeping(bench)
            for _ in range(2):
                first = bench.send(EMBEDDINGS, EMBED)
                await bench.until(lambda: kept)
                exchange = kept.pop()
                if way in ("cut", "late in mid-answer"):
                    exchange.start(200, [])
                    exchange.write(b"{")
                if way == "answered":
                    exchange.respond(200, [], b"{}")
                elif way == "left":
                    first.call.abort()
                elif way == "cut":
                    exchange.abort()
                elif way == "failed":  # a connection that was used before is tried once more
                    while not first.is_over:
                        exchange.abort()
                        await bench.until(lambda first=first: kept or first.is_over)
                        exchange = kept.pop() if kept else exchange
                if way != "left":
                    await first.over()
                told = {"answered": 200, "left": None, "failed": 502, "late": 504}
                assert (first.status, first.failure) == (told[way], None) if way in told else first.failure is not None
                await bench.until(lambda: not bench.gateway.places.num_taken)
                await bench.until(lambda exchange=exchange: exchange.is_over)
            bench.check_empty()

    run(main)


def test_what_waits_to_be_passed_on_leaves_the_line():
    """By going, or when it has waited too long; neither is counted among the generations that were turned away."""

    async def main():
        server = {"max_concurrent_requests": 1, "queue_size": 2, "queue_timeout_s": 0.05}
        async with Bench(server=server) as bench:
            first = bench.send(COMPLETIONS, completion(100_000, stream=True))
            await first.until(lambda reply: reply.body)
            impatient = bench.send(EMBEDDINGS, EMBED)
            await bench.until(lambda: bench.gateway.places.num_waiting)
            impatient.call.abort()
            await bench.until(lambda: not bench.gateway.places.num_waiting)
            late = await bench.ask(EMBEDDINGS, EMBED)
            assert (late.status, late.code) == (429, "queue_timeout")
            told = await bench.get(b"/metrics")
            assert b'polyslo_turned_away_total{reason="expired"} 0.0' in told.body
            first.call.abort()
            await bench.settle()

    run(main)


def keeping(bench):
    """Have the engine keep embeddings unanswered; return where."""
    kept, handle = [], bench.engines[0].api.handle

    def keep(exchange):
        if exchange.path == EMBEDDINGS:
            kept.append(exchange)
        else:
            handle(exchange)

    bench.engines[0]._listener.handler = keep
    return kept


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_request_that_takes_too_long_is_ended(stream):
    """After `request_timeout_s` a stream is cut and a whole answer is a 504; the engine hears of it."""

    async def main():
        async with Bench(server={"request_timeout_s": 0.1}) as bench:
            reply = await bench.ask(COMPLETIONS, completion(100_000, stream=stream))
            if stream:
                assert (reply.status, reply.failure.kind) == (200, "reset")
            else:
                assert (reply.status, reply.code) == (504, "request_timeout")
            await bench.settle()
            assert bench.gateway.boards[MODEL].totals["failed"] == 1

    run(main)


def test_an_engine_that_wants_a_key_is_sent_its_own(monkeypatch):
    """The client's key is the gateway's business; the engine gets the one that the configuration names."""
    monkeypatch.setenv("ENGINE_KEY", "for the engine")

    async def main():
        async with Bench(1) as bench:
            seen = []
            api = bench.engines[0].api
            handle = api.handle

            def watched(exchange):
                seen.append((exchange.path, exchange.header(b"authorization")))
                handle(exchange)

            bench.engines[0]._listener.handler = watched
            endpoint = {"url": bench.engines[0].url, "api_key_env": "ENGINE_KEY"}
            async with Bench(0, models=[{"name": MODEL, "speed": SPEED, "endpoints": [endpoint]}]) as guarded:
                mine = [(b"authorization", b"Bearer mine")]
                assert (await guarded.ask(COMPLETIONS, completion(), mine)).status == 200
                assert (await guarded.ask(b"/tokenize", {"model": MODEL, "prompt": "once"}, mine)).status == 200
                await guarded.settle()
            told = {path: key for path, key in seen if key is not None}
            assert (
                told[COMPLETIONS]
                == told[b"/tokenize"]
                == told[b"/v1/models"]
                == told[b"/health"]
                == b"Bearer for the engine"
            )
            assert b"Bearer mine" not in {key for _, key in seen}

    run(main)


@pytest.mark.parametrize("is_compiled", [True, False])
def test_tokens_go_past_python_where_that_is_wanted(is_compiled):
    """A stream under way is with the bypass, unless the configuration says no; the client and belief see no difference.

    The engine sends every token in a chunk of its own, and the end with its reason through Python.
    """

    async def main():
        async with Bench(server={"compiled_relay": is_compiled}) as bench:
            running = bench.send(COMPLETIONS, completion(2000, stream=True))
            await running.until(lambda reply: reply.body.count(b"data: ") > 50)
            assert (bench.model.bypass is None) == (not is_compiled)
            if is_compiled:
                await bench.until(lambda: len(bench.model.bypass) == 1)
            (relay,) = (relay for relay in bench.model.relays if relay)
            await running.over()
            assert relay.passage.tokens == 2000
            assert running.body.count(b"data: {") == 2000
            await bench.settle()

    run(main)


@pytest.mark.skipif(sys.platform != "linux", reason="there is no epoll")
@pytest.mark.parametrize("is_overdue", [False, True])
def test_a_token_that_is_late_past_python_is_late(is_overdue, monkeypatch):
    """Python judges by a deadline an hour away, and what passes it by the same, or by one that was an hour ago."""
    reckoning, hear, late = Tally.reckoning, NearRelay.on_counted, []

    def judge(tally, r, counter):
        known = reckoning(tally, r, counter)
        return known and known._replace(due_s=known.due_s - 7200.0 * is_overdue)

    def listen(relay, tokens, last_s, late_ratio):
        hear(relay, tokens, last_s, late_ratio)
        late.append((late_ratio > 0.0, relay.passage.is_late))

    monkeypatch.setattr(Tally, "reckoning", judge)
    monkeypatch.setattr(NearRelay, "on_counted", listen)

    async def main():
        async with Bench() as bench:
            while not late:  # a busy machine may read a stream's chunks in halves until it ends
                await bench.send(COMPLETIONS, completion(500, stream=True), [(TTFT, b"3600000"), (TPOT, b"50")]).over()
            await bench.settle()

    run(main)
    assert set(late) == {(is_overdue, is_overdue)}


def test_shutting_down_lets_what_runs_end_and_refuses_the_rest():
    """A stream under way ends whole; who waits in line and who comes later is told 503."""

    async def main():
        async with Bench(server={"max_concurrent_requests": 1, "shutdown_grace_s": 20.0}) as bench:
            running = bench.send(COMPLETIONS, completion(2000, stream=True))
            await running.until(lambda reply: reply.body)
            waiting = bench.send(COMPLETIONS, completion())
            while not bench.gateway.places.num_waiting:
                await asyncio.sleep(0.001)
            idle = bench.send(b"/health", method=b"GET")
            await idle.over()
            stopping = asyncio.create_task(bench.gateway.stop())
            refused = await waiting.over()
            assert (refused.status, refused.code) == (503, "shutting_down")
            await running.over()
            assert running.failure is None
            assert running.body.endswith(b"data: [DONE]\n\n")
            await stopping
            assert (await bench.ask(COMPLETIONS, completion())).failure.kind in ("connect", "reset")
            bench.check_empty()

    run(main)


def test_shutting_down_cuts_what_outlasts_the_grace():
    """The client sees that its stream is not whole, the engine that nobody listens, and nothing is left."""

    async def main():
        async with Bench(server={"shutdown_grace_s": 0.0}) as bench:
            running = bench.send(COMPLETIONS, completion(100_000, stream=True))
            await running.until(lambda reply: reply.body)
            await bench.gateway.stop()
            assert (await running.over()).failure is not None
            while bench.engines[0].engine.num_residents:
                await asyncio.sleep(0.001)
            bench.check_empty()

    run(main)
