"""A real Envoy, set up as examples/envoy.yaml has it, between clients and engines, with polyslo deciding."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from environments import PEERS
from gateway_bench import CHAT, COMPLETIONS, MODEL, Bench, chat, completion, num_tokens, plain, run

from polyslo.engines.faults import CLOSE_STREAMS, Fault
from polyslo.fleets.ports import free_ports
from polyslo.wire.client import Origin

EXAMPLE = (Path(__file__).parents[2] / "examples" / "envoy.yaml").read_text(encoding="utf-8")
ENVOY = next(environment for environment in PEERS if environment.name == "envoy")
pytestmark = pytest.mark.skipif(not ENVOY.is_ready, reason=ENVOY.missing)

# How gateways differ: in what they send here, and in where they look for the answer.
CHANGES = {
    "example": {},
    "duplex": {"response_body_mode: STREAMED": "response_body_mode: FULL_DUPLEX_STREAMED",
               "message_timeout: 1800s": "message_timeout: 0.1s"},
    "buffered": {"request_body_mode: FULL_DUPLEX_STREAMED": "request_body_mode: BUFFERED",
                 "request_trailer_mode: SEND": "request_trailer_mode: SKIP"},
    "header": {"metadata_key: {key: envoy.lb, path: [{key: x-gateway-destination-endpoint}]}":
               "use_http_header: true, http_header_name: x-gateway-destination-endpoint"},
}  # fmt: skip


@asynccontextmanager
async def envoy_before(bench, folder, kind="example"):
    """Run Envoy; yield the origin that clients send to."""
    (port,) = free_ports(1)
    text = EXAMPLE.replace("port_value: 10000", f"port_value: {port}")
    text = text.replace("port_value: 9002", f"port_value: {bench.gateway.picker.port.port}")
    for old, new in CHANGES[kind].items():
        assert old in text
        text = text.replace(old, new)
    file = folder / "envoy.yaml"
    file.write_text(text)
    flags = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
    process = await asyncio.create_subprocess_exec(ENVOY.program("envoy"), "-c", str(file), *flags)
    origin = Origin(f"http://127.0.0.1:{port}")
    try:
        while (await bench.ask(b"/health", method=b"GET", origin=origin)).status != 200:
            assert process.returncode is None
            await asyncio.sleep(0.05)
        yield origin
    finally:
        await origin.close()
        process.terminate()
        await process.wait()


def through_envoy(use, folder, kind="example", num_engines=2, **tables):
    """Run `use(bench, origin)` with Envoy before two engines; nothing of a request is left anywhere then."""
    tables["server"] = {"ext_proc_port": 0, **tables.get("server", {})}

    async def main():
        async with Bench(num_engines, **tables) as bench, envoy_before(bench, folder, kind) as origin:
            await use(bench, origin)
            await bench.settle()

    run(main)


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(("path", "make"), [(COMPLETIONS, completion), (CHAT, chat)], ids=["completion", "chat"])
def test_an_answer_is_the_engines_own_to_the_byte(tmp_path, path, make, stream, kind):
    """However Envoy tells of it; and its tokens were counted."""

    async def use(bench, origin):
        body = make(20, stream=stream, **({"stream_options": {"include_usage": True}} if stream else {}))
        same = [(b"x-request-id", b"same")]
        direct = Origin(bench.engines[0].url)
        own = await bench.ask(path, body, same, origin=direct)
        await direct.close()
        ours = await bench.ask(path, body, same, origin=origin)
        assert ours.status == own.status == 200
        assert plain(ours.body) == plain(own.body)
        assert ours.header(b"content-type") == own.header(b"content-type")
        await bench.settle()
        assert bench.gateway.boards[MODEL].totals["attained"] == 1
        assert bench.gateway.boards[MODEL].num_tokens == 20

    through_envoy(use, tmp_path, kind)


def test_requests_are_spread_by_slo(tmp_path):
    """The two tiers' requests go to an instance each, many at once."""
    classes = {"chat": {"ttft_ms": 3_600_000, "tpot_ms": 50}, "batch": {"ttft_ms": 3_600_000, "tpot_ms": 100}}

    async def use(bench, origin):
        bench.hold(0)
        bench.hold(1)
        replies = {"batch": [], "chat": []}
        for k in range(20):
            name = "batch" if k % 2 == 0 else "chat"
            asked = [(b"x-llm-d-inference-objective", name.encode()), (b"x-polyslo-explain", b"1")]
            replies[name].append(bench.send(COMPLETIONS, completion(9, stream=k % 4 < 2), asked, origin=origin))
            await bench.until(lambda k=k: bench.model.num_in_flight == k + 1)
        bench.go_on(0)
        bench.go_on(1)
        used = {
            name: {(await reply.over()).header(b"x-polyslo-instance") for reply in of} for name, of in replies.items()
        }
        assert {reply.status for of in replies.values() for reply in of} == {200}
        assert sorted(used.values(), key=str) == sorted([{b"e0"}, {b"e1"}], key=str)

    through_envoy(use, tmp_path, classes=classes)


@pytest.mark.parametrize("kind", ["example", "duplex", "buffered"])
def test_a_request_is_held_until_there_is_room(tmp_path, kind):
    """Each instance holds one request; the third gets its answer when one of them has ended."""

    async def use(bench, origin):
        running = [bench.send(COMPLETIONS, completion(2000, stream=True), origin=origin) for _ in range(2)]
        for reply in running:
            await reply.until(lambda reply: reply.body)
        held = bench.send(COMPLETIONS, completion(3), origin=origin)
        await bench.until(bench.model.fleet.pending_size.any)
        assert held.status is None
        assert (await held.over()).status == 200
        assert any(reply.is_over for reply in running)
        for reply in running:
            assert num_tokens((await reply.over()).body) == 2000

    through_envoy(use, tmp_path, kind, model={"max_residents": 1})


def test_answers_of_polyslos_own_come_through(tmp_path):
    """A refusal with when to come back, a mistake in OpenAI's shape, a route that is not there, the list of models."""

    async def use(bench, origin):
        late = await bench.ask(
            COMPLETIONS, completion(prompt=[7] * 5000), [(b"x-slo-ttft-ms", b"0.001")], origin=origin
        )
        assert (late.status, late.code, late.header(b"retry-after")) == (429, "slo_unattainable_now", b"1")
        wrong = await bench.ask(COMPLETIONS, b"{", origin=origin)
        assert (wrong.status, wrong.code) == (400, "invalid_json")
        assert wrong.header(b"content-type") == b"application/json"
        assert (await bench.ask(b"/metrics", method=b"GET", origin=origin)).status == 404
        listed = await bench.ask(b"/v1/models", method=b"GET", origin=origin)
        assert [card["id"] for card in listed.json["data"]] == [MODEL]

    through_envoy(use, tmp_path, model={"refuse": True})


@pytest.mark.parametrize("kind", ["example", "duplex", "buffered"])
def test_who_waits_too_long_in_line_is_told(tmp_path, kind):
    """An answer that comes later, without an instance, is the client's all the same."""

    async def use(bench, origin):
        running = bench.send(COMPLETIONS, completion(100_000, stream=True), origin=origin)
        await running.until(lambda reply: reply.body)
        waited = await bench.ask(COMPLETIONS, completion(), origin=origin)
        assert (waited.status, waited.code) == (429, "queue_timeout")
        running.call.abort()

    server = {"max_concurrent_requests": 1, "queue_timeout_s": 0.05}
    through_envoy(use, tmp_path, kind, server=server)


@pytest.mark.parametrize("kind", ["example", "duplex", "buffered"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_what_takes_too_long_is_ended(tmp_path, kind, stream):
    """A stream under way is cut, an answer that has not begun is a 504; the engine hears of either."""

    async def use(bench, origin):
        reply = await bench.ask(COMPLETIONS, completion(100_000, stream=stream), origin=origin)
        if stream:
            assert (reply.status, reply.failure.kind) == (200, "reset")
        else:
            assert (reply.status, reply.code) == (504, "request_timeout")

    through_envoy(use, tmp_path, kind, server={"request_timeout_s": 0.3})


@pytest.mark.parametrize("kind", ["example", "duplex", "buffered"])
@pytest.mark.parametrize("who", ["client", "engine"])
def test_a_stream_that_breaks_leaves_nothing_behind(tmp_path, kind, who):
    """Whoever leaves in its middle, the other end hears of it, and every count is zero."""

    async def use(bench, origin):
        reply = bench.send(COMPLETIONS, completion(100_000, stream=True), origin=origin)
        await reply.until(lambda reply: reply.body)
        if who == "client":
            reply.call.abort()
        else:
            for engine in bench.engines:
                engine.inflict(Fault(CLOSE_STREAMS))
            assert (await reply.over()).failure is not None

    through_envoy(use, tmp_path, kind)


def test_an_engine_that_is_gone_is_envoys_503(tmp_path):
    """It is told with the response's headers, counts against the instance, and the next request goes elsewhere."""

    async def use(bench, origin):
        first = await bench.ask(COMPLETIONS, completion(), [(b"x-polyslo-explain", b"1")], origin=origin)
        gone = int(first.header(b"x-polyslo-instance")[1:])
        await bench.engines[gone].stop(0.0)
        statuses = [(await bench.ask(COMPLETIONS, completion(), origin=origin)).status for _ in range(2)]
        assert statuses == [503, 200]

    through_envoy(use, tmp_path, health={"failure_threshold": 1, "interval_s": 3600.0})


@pytest.mark.parametrize("kind", ["example", "buffered"])
def test_the_slo_reaches_engines_that_read_it(tmp_path, kind):
    """polyslo writes it into the body that Envoy sends."""

    async def use(bench, origin):
        seen = []
        for engine in bench.engines:
            handle = engine.api.handle
            engine._listener.handler = lambda exchange, handle=handle: (seen.append(exchange.body), handle(exchange))
        assert (await bench.ask(COMPLETIONS, completion(), origin=origin)).status == 200
        assert b'"polyslo_tpot_ms":50' in next(body for body in seen if b"prompt" in body)

    through_envoy(use, tmp_path, kind, model={"dynamic_chunking": True})
