"""The gateway when clients leave or dawdle and engines fail: who notices what, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import socket

import orjson
import pytest
from gateway_bench import COMPLETIONS, MODEL, SPEED, Bench, completion, num_tokens, run

from polyslo.core.state import FITS, UNHEALTHY
from polyslo.engines.faults import CLOSE_STREAMS, CRASH, ERROR, STALL, Fault

LONG = 100_000  # tokens: more than any of these tests waits for
PATIENT = {"interval_s": 3600.0, "failure_threshold": 1000}  # health that says nothing


async def _first_token(bench, **more):
    """Return the reply of a long stream that has begun."""
    reply = bench.send(COMPLETIONS, completion(LONG, stream=True, **more))
    return await reply.until(lambda reply: reply.body)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_an_engine_hears_that_a_client_has_left(stream):
    """Its work is aborted at once, and belief forgets it."""

    async def main():
        async with Bench() as bench:
            reply = bench.send(COMPLETIONS, completion(LONG, stream=stream))
            while not bench.engines[0].engine.num_running:
                await asyncio.sleep(0.001)
            reply.call.abort()
            await bench.settle()
            assert bench.engines[0].engine.num_residents == 0
            assert bench.gateway.boards[MODEL].totals["cancelled"] == 1

    run(main)


def test_a_client_that_reads_nothing_holds_nobody_up():
    """The gateway stops reading from its engine, holds no more than a transport does, and serves others meanwhile."""

    async def main():
        async with Bench() as bench:
            body = completion(40_000, stream=True, return_token_ids=True)
            raw = orjson.dumps(body)
            slow = socket.socket()
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", bench.gateway.listener.port))
            slow.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(raw) + raw)
            slow.setblocking(False)
            (connection,) = await _connections(bench, 1)
            while not connection.is_blocked:
                await asyncio.sleep(0.001)
            for _ in range(5):
                assert (await bench.ask(COMPLETIONS, completion(50, stream=True))).status == 200
            assert connection.is_blocked
            assert connection.transport.get_write_buffer_size() < 1 << 20
            slow.close()
            await bench.settle()

    run(main)


async def _connections(bench, count):
    while len(found := tuple(bench.gateway.listener._connections)) < count:
        await asyncio.sleep(0.001)
    return found


def test_a_slow_client_gets_everything_in_the_end():
    """One that begins to read late finds its stream whole: every event once, in order, and the end."""

    async def main():
        async with Bench() as bench:
            reply = bench.send(COMPLETIONS, completion(10_000, stream=True))
            await reply.until(lambda reply: reply.body)
            reply.call.pause()
            while bench.engines[0].engine.num_residents:
                await asyncio.sleep(0.002)
            reply.call.resume()
            await reply.over()
            assert reply.failure is None
            assert reply.body.endswith(b"data: [DONE]\n\n")
            words = b"".join(orjson.loads(line[6:])["choices"][0]["text"].encode()
                             for line in reply.body.split(b"\n\n") if line[6:7] == b"{")  # fmt: skip
            whole = await bench.ask(COMPLETIONS, completion(10_000))
            assert words.decode() == whole.json["choices"][0]["text"]
            await bench.settle()

    run(main)


@pytest.mark.parametrize(("kind", "ending"), [(CLOSE_STREAMS, "cut"), (CRASH, "error event")])
def test_a_stream_that_fails_midway_is_seen_to_fail(kind, ending):
    """The client's connection is cut, or it gets the engine's error event: never a short answer that looks whole."""

    async def main():
        async with Bench(2, health=PATIENT) as bench:
            reply = await _first_token(bench)
            for engine in bench.engines:
                engine.inflict(Fault(kind))
            await reply.over()
            if ending == "cut":
                assert reply.failure.kind == "reset"
            else:
                assert b'data: {"error"' in reply.body
            await bench.settle()
            assert bench.gateway.boards[MODEL].totals["failed"] == 1

    run(main)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("kind", [CLOSE_STREAMS, CRASH, ERROR])
def test_an_instance_that_fails_before_the_first_token_is_replaced(kind, stream):
    """The client gets one answer, whole, from another instance; it learns nothing of the first."""

    async def main():
        async with Bench(2, health=PATIENT) as bench:
            for engine in bench.engines:
                engine.engine.stall(3600.0 * SPEED)
            if kind == ERROR:
                for engine in bench.engines[:1]:
                    engine.inflict(Fault(ERROR, 3600.0))
            reply = bench.send(COMPLETIONS, completion(12, stream=stream), [(b"x-polyslo-explain", b"1")])
            while not (holders := [engine for engine in bench.engines if engine.engine.num_residents]):
                await asyncio.sleep(0.001)
            other = bench.engines[1 - bench.engines.index(holders[0])]
            if kind != ERROR:
                other.engine.crash()  # which forgets the stall
                holders[0].inflict(Fault(kind))
                await reply.over()
                assert (reply.status, reply.failure) == (200, None)
                if stream:
                    assert num_tokens(reply.body) == 12
                    assert reply.body.count(b"[DONE]") == 1
                else:
                    assert reply.json["usage"]["completion_tokens"] == 12
                assert reply.header(b"x-polyslo-instance") == b"e%d" % bench.engines.index(other)
            else:
                assert holders == [bench.engines[1]]  # the one that does not refuse
                reply.call.abort()
            await bench.settle()

    run(main)


def test_an_instance_that_nobody_can_reach_is_left_out_at_once():
    """A refused connection closes it in belief; the request goes elsewhere, and so do all that follow."""

    async def main():
        async with Bench(2, health={"interval_s": 3600.0}) as bench:
            await bench.engines[0]._close_listener(0.0)
            replies = [await bench.ask(COMPLETIONS, completion()) for _ in range(3)]
            assert [reply.status for reply in replies] == [200] * 3
            closed = [instance.closed for instance in bench.model.instances]
            assert closed in ([UNHEALTHY, FITS], [FITS, FITS])
            await bench.settle()

    run(main)


def test_when_every_instance_fails_the_answer_says_so():
    """After two retries 502 with what failed; once no instance is open, 503 and when to come back."""

    async def main():
        async with Bench(1, health={"interval_s": 3600.0}) as bench:
            await bench.engines[0]._close_listener(0.0)
            reply = await bench.ask(COMPLETIONS, completion())
            assert reply.status in (502, 503)
            later = await bench.ask(COMPLETIONS, completion())
            assert (later.status, later.code) == (503, "no_instance")
            assert later.header(b"retry-after") is not None
            assert (await bench.ask(b"/v1/models", method=b"GET")).status == 503
            assert (await bench.ask(b"/readiness", method=b"GET")).status == 503
            assert (await bench.ask(b"/liveness", method=b"GET")).status == 200
            bench.check_empty()

    run(main)


@pytest.mark.parametrize("timeout", ["first_byte_timeout_s", "idle_timeout_s"])
def test_a_frozen_engine_is_given_up(timeout):
    """It sends no token though /health says 200: before the first one the request goes elsewhere, later it is cut."""

    async def main():
        async with Bench(2, health={**PATIENT, timeout: 0.1}) as bench:
            if timeout == "first_byte_timeout_s":
                bench.engines[0].engine.stall(3600.0 * SPEED)
                replies = [bench.send(COMPLETIONS, completion(5, stream=True)) for _ in range(4)]
                for reply in replies:
                    await reply.over()
                    assert (reply.status, num_tokens(reply.body)) == (200, 5)
            else:
                reply = await _first_token(bench)
                for engine in bench.engines:
                    engine.inflict(Fault(STALL, 3600.0))
                assert (await reply.over()).failure.kind == "reset"
            await bench.settle()

    run(main)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_engine_is_an_event_though_nobody_asks_it_for_anything(processes):
    """The next reading of its metrics finds nobody there, long before a look is due; with the event it is unhealthy."""

    async def main():
        telemetry = {"engine_interval_s": 0.1}
        async with Bench(2, health=PATIENT, telemetry=telemetry, server={"processes": processes}) as bench:
            await bench.engines[1].stop(0.0)
            events = bench.gateway.boards[MODEL].events
            await bench.until(lambda: any(event["kind"] == "unhealthy" for event in events))
            assert [(event["text"], event["instance"]) for event in events] == [("e1", 1)]
            assert (await bench.get(b"/state")).json["pool"]["num_unhealthy"] == 1
            assert (await bench.ask(COMPLETIONS, completion())).status == 200

    run(main)


def test_an_unhealthy_instance_gets_nothing_until_it_is_well_again():
    """Nobody can connect, which closes it; two good looks open it; meanwhile everything goes to the other one."""
    health = {"interval_s": 0.1, "timeout_s": 1.0, "failure_threshold": 3, "success_threshold": 2}

    async def main():
        async with Bench(2, health=health) as bench:
            down = bench.engines[0]
            await down._close_listener(0.0)
            states = bench.model.instances
            while states[0].closed != UNHEALTHY:
                await asyncio.sleep(0.005)
            for _ in range(4):
                reply = await bench.ask(COMPLETIONS, completion(), [(b"x-polyslo-explain", b"1")])
                assert reply.header(b"x-polyslo-instance") == b"e1"
            await down.start()
            while states[0].closed != FITS:
                await asyncio.sleep(0.005)
            bench.model.close_instance(1, UNHEALTHY)
            reply = await bench.ask(COMPLETIONS, completion(), [(b"x-polyslo-explain", b"1")])
            assert reply.header(b"x-polyslo-instance") == b"e0"
            kinds = [event["kind"] for event in bench.gateway.boards[MODEL].events]
            assert kinds.count("unhealthy") == 2
            assert kinds.count("recovered") >= 1
            await bench.settle()

    run(main)


def test_best_effort_work_yields_without_losing_anything():
    """A late request gives its instance up to one in time before its first token, and is answered in full later."""

    async def main():
        async with Bench(1, health=PATIENT) as bench:
            engine = bench.engines[0].engine
            engine.stall(3600.0 * SPEED)
            late = bench.send(COMPLETIONS, completion(6, prompt=[7] * 3000, stream=True),
                              [(b"x-llm-d-slo-ttft-ms", b"0.001")])  # fmt: skip
            while not engine.num_residents:
                await asyncio.sleep(0.001)
            urgent = bench.send(COMPLETIONS, completion(9, stream=True))
            while not [relay for relay in bench.model.relays if relay and relay.at.instance is None]:
                await asyncio.sleep(0.001)
            while engine.num_residents != 1:
                await asyncio.sleep(0.001)
            engine.crash()  # which forgets the stall, and what it held; the urgent one is tried again
            bench.engines[0].api.cut()
            await urgent.over()
            await late.over()
            assert [num_tokens(reply.body) for reply in (urgent, late)] == [9, 6]
            await bench.settle()
            assert bench.gateway.boards[MODEL].totals["missed"] == 1

    run(main)


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 999 Beyond\r\ncontent-length: 2\r\n\r\n{}", b""],
    ids=["another protocol", "no status of HTTP", "nothing"],
)
def test_an_engine_that_speaks_no_http_fails_only_its_own(answer):
    """Garbage is a 502 after the retries; the gateway lives on."""

    async def main():
        async def garbage(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(garbage, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Bench(0, models=[{"name": MODEL, "speed": SPEED, "endpoints": [{"url": url}]}],
                         health=PATIENT) as bench:  # fmt: skip
            reply = await bench.ask(COMPLETIONS, completion())
            assert reply.status == 502
            if not answer.startswith(b"HTTP"):
                assert reply.code == "instance_failed"
                assert "3 tried" in reply.json["error"]["message"]
            await bench.settle()
        server.close()
        await server.wait_closed()

    run(main)


def test_pages_and_metrics_tell_of_all_this():
    """The management port: page, state with tokens a second while streams run, events, stories, metrics, workers."""

    async def main():
        async with Bench(2) as bench:
            page = await bench.get(b"/")
            assert page.status == 200
            assert b"<html" in page.body.lower()
            assert (await bench.ask(COMPLETIONS, completion(), [(b"x-request-id", b"mine")])).status == 200
            running = await _first_token(bench)
            board = bench.gateway.boards[MODEL]
            board.tick(bench.model)
            state = (await bench.get(b"/state")).json
            assert state["totals"]["requests"] == 2
            assert state["totals"]["in_flight"] >= 1
            assert board.num_tokens_of(bench.model) > 8  # tokens of streams that run
            assert state["totals"]["tokens_per_s"] > 0
            assert [tier["num_requests_1m"] for tier in state["tiers"]] == [1]
            events = bench.send(b"/events", method=b"GET", origin=bench.management)
            await events.until(lambda reply: reply.body.count(b"\n\n") >= 1)
            assert events.header(b"content-type") == b"text/event-stream"
            assert events.body.startswith(b"event: state\ndata: {")
            events.call.abort()
            story = (await bench.get(b"/requests/mine")).json
            assert [step["kind"] for step in story["steps"]] == ["arrived", "placed", "attained"]
            assert (story["attained"], story["output_tokens"]) == (True, 8)
            assert (await bench.get(b"/requests/other")).status == 404
            workers = (await bench.get(b"/workers")).json["workers"]
            assert sum(worker["load"] for worker in workers) == 1
            loads = (await bench.get(b"/get_loads")).json["loads"]
            assert sum(load["num_decodes"] + load["num_queued"] for load in loads) == 1
            running.call.abort()
            await bench.settle()
            text = (await bench.get(b"/metrics")).body.decode()
            for line in (
                'polyslo_request_total{model="emulated",slo_tier="50ms"} 2.0',
                'polyslo_slo_attained_total{model="emulated",slo_tier="50ms"} 1.0',
                'polyslo_request_error_total{model="emulated",outcome="cancelled",slo_tier="50ms"} 1.0',
                f'polyslo_request_running{{model="{MODEL}"}} 0.0',
                f'polyslo_ready_endpoints{{model="{MODEL}"}} 2.0',
                f'polyslo_inflight_tokens{{engine="e0",model="{MODEL}"}} 0.0',
            ):
                assert line in text.splitlines()
            assert (await bench.ask(b"/state", method=b"POST", origin=bench.management)).status == 405

    run(main)


def test_what_the_page_remembers_is_bounded():
    """Of a request that is over no body, no exchange and no answer is kept."""

    async def main():
        async with Bench() as bench:
            await bench.ask(COMPLETIONS, completion())
            await bench.settle()
            (story,) = bench.gateway.boards[MODEL].stories.values()
            assert story.relay is None
            assert (story.num_tokens, story.outcome) == (8, "attained")

    run(main)
