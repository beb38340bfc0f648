"""The endpoint picker: requests that Envoy carries, decided about like others. Envoy is played (`played_envoy`)."""

from __future__ import annotations

import gateway_bench
import pytest
import test_gateway_sockets as sockets
import test_reloads as reloads
from gateway_bench import COMPLETIONS, MODEL, Bench, completion, run
from played_envoy import BUFFERED, DUPLEX, STREAMED, PlayedEnvoy
from whoever_carries import WHOEVER_CARRIES

from polyslo.engines.faults import CLOSE_STREAMS, Fault
from polyslo.gateway.requests.keys import hash_of

# The same tests with the requests carried by Envoy. Not here: what Envoy does for itself, and what it can't have done.
SAME = (
    *WHOEVER_CARRIES,
    sockets.test_an_slo_too_tight_is_refused_where_that_is_asked_for,
    sockets.test_a_malformed_slo_is_a_400_that_names_its_header,
    reloads.test_keys_and_classes_hold_from_the_next_request_on,
)
globals().update({test.__name__: test for test in SAME})


@pytest.fixture(autouse=True, params=[(DUPLEX, DUPLEX, 61), (BUFFERED, STREAMED, 1000)], ids=["duplex", "buffered"])
def envoy(request, monkeypatch):
    """Clients' requests come by way of Envoy."""
    *modes, piece_bytes = request.param
    monkeypatch.setitem(gateway_bench.DEFAULT_SERVER, "ext_proc_port", 0)
    monkeypatch.setattr(
        gateway_bench,
        "way_in",
        lambda gateway: PlayedEnvoy(gateway.picker.port.port, modes, piece_bytes),
    )


def test_a_stream_that_breaks_is_nobodys_miss():
    """Envoy lets go in the same way whether its client left or the engine broke off, so it counts as cancelled."""

    async def main():
        async with Bench() as bench:
            reply = bench.send(COMPLETIONS, completion(100_000, stream=True))
            await reply.until(lambda reply: reply.body)
            bench.engines[0].inflict(Fault(CLOSE_STREAMS))
            assert (await reply.over()).failure is not None
            await bench.settle()
            assert bench.gateway.boards[MODEL].totals["cancelled"] == 1

    run(main)


def test_what_an_engine_can_not_answer_counts_against_it():
    """An engine that nobody reaches is Envoy's own 503, which passes its filters: the request failed there."""

    async def main():
        async with Bench(2, health={"failure_threshold": 1, "interval_s": 3600.0}) as bench:
            assert (await bench.ask(COMPLETIONS, completion())).status == 200
            used = next(k for k, engine in enumerate(bench.engines) if engine.url.endswith(bench.origin.endpoints[0]))
            await bench.engines[used].stop(0.0)
            assert [(await bench.ask(COMPLETIONS, completion())).status for _ in range(2)] == [503, 200]
            assert [instance.is_open for instance in bench.model.instances] == [used == 1, used == 0]
            await bench.settle()
            assert bench.gateway.boards[MODEL].totals["failed"] == 1

    run(main)


def test_a_request_is_held_until_an_instance_has_room():
    """The batch holds one request: the second is answered by nobody until the first has left, and then picked."""

    async def main():
        async with Bench(model={"max_residents": 1}) as bench:
            first = bench.send(COMPLETIONS, completion(100_000, stream=True))
            await first.until(lambda reply: reply.body)
            second = bench.send(COMPLETIONS, completion(3))
            await bench.until(lambda: bench.model.fleet.pending_size.any())
            assert len(bench.origin.endpoints) == 1
            first.call.abort()
            assert (await second.over()).status == 200
            assert len(bench.origin.endpoints) == 2
            await bench.settle()

    run(main)


@pytest.mark.parametrize("is_quiet", [False, True], ids=["reset", "half-closed"])
@pytest.mark.parametrize("phase", ["in line", "pending", "picked", "streaming", "nearly whole"])
def test_whoever_leaves_leaves_nothing_behind(phase, is_quiet):
    """Whenever Envoy lets go of a request, and however, every count is zero again."""
    bounds = {
        "in line": {"server": {"max_concurrent_requests": 1}},
        "pending": {"model": {"max_residents": 1}},
    }

    async def main():
        async with Bench(**bounds.get(phase, {})) as bench:
            model, places = bench.model, bench.gateway.places
            others = []
            if phase in bounds:
                others.append(bench.send(COMPLETIONS, completion(100_000, stream=True)))
                await others[0].until(lambda reply: reply.body)
            if phase == "picked":
                bench.hold()
            reply = bench.send(COMPLETIONS, completion(100_000, stream=phase != "nearly whole"))
            await bench.until(
                {
                    "in line": lambda: places.num_waiting,
                    "pending": model.fleet.pending_size.any,
                    "picked": lambda: bench.origin.endpoints and model.instances[0].running,
                    "streaming": lambda: reply.body,
                    "nearly whole": lambda: bench.engines[0].engine.num_residents,
                }[phase]
            )
            reply.call.abort(is_quiet=is_quiet)
            await bench.until(lambda: not places.num_waiting and model.num_in_flight == len(others))
            assert places.num_taken == len(others)
            for other in others:
                other.call.abort()
            bench.go_on()
            await bench.settle()

    run(main)


def test_an_instance_that_is_removed_at_once_cuts_what_it_has():
    """Envoy is told to break the stream off; nothing is believed to be anywhere then."""
    server = {"admin_key_hash": hash_of(b"admin")}

    async def main():
        async with Bench(2, server=server) as bench:
            reply = bench.send(COMPLETIONS, completion(100_000, stream=True))
            await reply.until(lambda reply: reply.body)
            used = next(instance for instance in bench.model.instances if instance.running)
            path, admin = b"/workers/%b" % used.name.encode(), [(b"authorization", b"Bearer admin")]
            gone = await bench.ask(path + b"?force=1", None, admin, method=b"DELETE", origin=bench.management)
            assert gone.status < 300
            assert (await reply.over()).failure is not None
            await bench.settle()

    run(main)


def test_where_a_client_wants_to_go_is_not_asked():
    """A destination that a client writes is replaced."""

    async def main():
        async with Bench() as bench:
            asked = [(b"x-gateway-destination-endpoint", b"192.0.2.1:80")]
            assert (await bench.ask(COMPLETIONS, completion(), asked)).status == 200
            assert bench.origin.endpoints == [bench.engines[0].url.removeprefix("http://")]

    run(main)
