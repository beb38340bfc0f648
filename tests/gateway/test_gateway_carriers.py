"""What the gateway does with one process it does with carriers: the same tests, the bytes carried by two of them.

Carriers run in the test's loop (`carriers_here`); `test_processes` has them as processes.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import carriers_here
import gateway_bench
import pytest
import test_broken_answers as broken
import test_disaggregated_sockets as disaggregated
import test_gateway_faults as faults
import test_gateway_sockets as sockets
import test_reloads as reloads
import test_resumed_streams as resumed
import test_traces as traces
import test_workers as workers
from gateway_bench import COMPLETIONS, MODEL, Bench, completion, run
from played_envoy import PlayedEnvoy
from whoever_carries import WHOEVER_CARRIES

from polyslo.errors import ConfigError
from polyslo.gateway.processes.carriers import bind
from polyslo.gateway.processes.tally import OPEN, TURNED_AWAY
from polyslo.gateway.requests.keys import hash_of
from polyslo.wire.client import Origin

# Not here: what looks into a listener of this process, and what does not depend on who carries.
SAME = (
    *WHOEVER_CARRIES,
    sockets.test_what_is_passed_on_gives_its_place_back_once,
    faults.test_a_slow_client_gets_everything_in_the_end,
    faults.test_a_stream_that_fails_midway_is_seen_to_fail,
    faults.test_an_instance_that_fails_before_the_first_token_is_replaced,
    faults.test_an_instance_that_nobody_can_reach_is_left_out_at_once,
    faults.test_when_every_instance_fails_the_answer_says_so,
    faults.test_a_frozen_engine_is_given_up,
    faults.test_an_unhealthy_instance_gets_nothing_until_it_is_well_again,
    faults.test_best_effort_work_yields_without_losing_anything,
    faults.test_an_engine_that_speaks_no_http_fails_only_its_own,
    faults.test_pages_and_metrics_tell_of_all_this,
    traces.test_a_request_is_a_span_of_its_clients_trace,
    traces.test_a_request_without_a_context_begins_a_trace,
    traces.test_a_trace_that_its_client_does_not_sample_is_passed_on_unsampled,
    traces.test_what_fails_or_is_turned_away_is_an_error,
    traces.test_who_finds_no_place_is_in_the_clients_trace,
    traces.test_a_gateway_without_traces_leaves_a_clients_context_alone,
)
WHOLE = (broken, disaggregated, reloads, resumed, workers)  # modules
globals().update({name: test for module in WHOLE for name, test in vars(module).items() if name.startswith("test_")})
globals().update({test.__name__: test for test in SAME})
spans, sent = traces.spans, traces.sent  # fixtures of theirs


@pytest.fixture(autouse=True)
def two_carriers(monkeypatch):
    """Gateways have two carriers."""
    carriers_here.install(monkeypatch)
    monkeypatch.setitem(gateway_bench.DEFAULT_SERVER, "processes", 2)


def test_limits_hold_over_all_carriers_together():
    """Clients at different carriers share the places, a key's places and the bound on connections."""
    key = {"hash": hash_of(b"one at a time"), "max_concurrent_requests": 1}
    alice = [(b"authorization", b"Bearer one at a time")]

    async def main():
        server = {"max_connections": 6, "max_concurrent_requests": 2, "queue_size": 0, "shutdown_grace_s": 0.0}
        async with Bench(keys={"alice": key, "bob": {"hash": hash_of(b"another")}}, server=server) as bench:
            first = bench.send(COMPLETIONS, completion(100_000, stream=True), alice)
            await first.until(lambda reply: reply.body)
            others = [await Away(bench).at_another_carrier() for _ in range(2)]
            assert bench.gateway.tally.rows[:, OPEN].min() > 0
            second = await others[0].ask(completion(), alice)
            assert (second.status, second.code) == (429, "saturated")
            bob = [(b"authorization", b"Bearer another")]
            third = others[0].send(completion(100_000, stream=True), bob)
            await third.until(lambda reply: reply.body)
            fourth = await others[1].ask(completion(), bob)
            assert (fourth.status, fourth.code) == (429, "saturated")
            while bench.gateway.tally.rows[:, OPEN].sum() < 6:
                others.append(await Away(bench).begin())
            assert bench.gateway.tally.rows[:, TURNED_AWAY].sum() == 0
            fifth = await bench.ask(COMPLETIONS, completion(), alice)
            assert fifth.status == 503 or fifth.failure is not None  # turned away before it could ask
            assert bench.gateway.tally.rows[:, TURNED_AWAY].sum() == 1
            for other in others:
                await other.origin.close()
            first.call.abort()
            await bench.settle()

    run(main)


def test_envoys_requests_and_carriers_share_one_decider():
    """A place that a carrier's request has is taken for Envoy's, too, until it is given back."""

    async def main():
        server = {"max_concurrent_requests": 1, "queue_size": 0, "ext_proc_port": 0}
        async with Bench(server=server) as bench:
            envoy = PlayedEnvoy(bench.gateway.picker.port.port)
            first = bench.send(COMPLETIONS, completion(100_000, stream=True))
            await first.until(lambda reply: reply.body)
            second = await bench.ask(COMPLETIONS, completion(), origin=envoy)
            assert (second.status, second.code) == (429, "saturated")
            first.call.abort()
            await bench.settle()
            assert (await bench.ask(COMPLETIONS, completion(), origin=envoy)).status == 200
            await bench.settle()
            await envoy.close()

    run(main)


class Away:
    """A client with a connection of its own."""

    def __init__(self, bench):
        self.bench = bench
        self.origin = Origin(f"http://127.0.0.1:{bench.gateway.listener.port}", keep_alive_s=60.0)

    def send(self, body, headers=()):
        """Send a completion."""
        return self.bench.send(COMPLETIONS, body, headers, origin=self.origin)

    async def ask(self, body, headers=()):
        """Send a completion and wait."""
        return await self.send(body, headers).over()

    async def begin(self):
        """Open the connection."""
        assert (await self.bench.ask(b"/health", method=b"GET", origin=self.origin)).status == 200
        return self

    async def at_another_carrier(self):
        """Open a connection until one is not where most are: the kernel chooses."""
        rows = self.bench.gateway.tally.rows
        while True:
            before = rows[:, OPEN].copy()
            await self.begin()
            if before.min() > 0 or before[(rows[:, OPEN] - before).argmax()] == 0:
                return self
            await self.origin.close()
            self.origin = Origin(f"http://127.0.0.1:{self.bench.gateway.listener.port}", keep_alive_s=60.0)
            while rows[:, OPEN].sum() > before.sum():
                await asyncio.sleep(0.001)


def test_a_request_that_two_carriers_could_log_is_logged_once(caplog):
    """The decider's process writes one line a request."""

    async def main():
        async with Bench() as bench:
            clients = [await Away(bench).at_another_carrier() for _ in range(4)]
            for k, client in enumerate(clients):
                assert (await client.ask(completion(stream=k % 2 > 0))).status == 200
            await bench.settle()
            for client in clients:
                await client.origin.close()

    with caplog.at_level("INFO", logger="polyslo"):
        run(main)
    told = [record.told for record in caplog.records if "outcome" in getattr(record, "told", {})]
    assert len(told) == len({line["request_id"] for line in told}) == 4
    assert {line["outcome"] for line in told} == {"attained"}


def test_carriers_hear_of_another_configuration():
    """Keys that are added and taken away count for the next request; where it listens stays."""

    async def main():
        async with Bench(keys={"alice": {"hash": hash_of(b"old")}}) as bench:
            assert (await bench.ask(COMPLETIONS, completion(), [(b"authorization", b"Bearer old")])).status == 200
            config = bench.gateway.config
            bench.gateway.front.reconfigure(replace(config, keys=(replace(config.keys[0], hash=hash_of(b"new")),)))
            while (await bench.ask(COMPLETIONS, completion(), [(b"authorization", b"Bearer new")])).status != 200:
                await asyncio.sleep(0.001)
            assert (await bench.ask(COMPLETIONS, completion(), [(b"authorization", b"Bearer old")])).status == 401
            await bench.settle()

    run(main)


def test_a_carrier_that_ends_takes_its_requests_with_it_and_is_begun_again(monkeypatch, caplog):
    """Its clients are cut, its engines' work is aborted, belief forgets it, a line says so; then it serves again."""
    monkeypatch.setattr("polyslo.gateway.processes.carriers.FIRST_PAUSE_S", 0.001)

    async def main():
        async with Bench() as bench:
            replies = [bench.send(COMPLETIONS, completion(100_000, stream=True)) for _ in range(6)]
            for reply in replies:
                await reply.until(lambda reply: reply.body)
            for carrier in bench.gateway.listener._processes.values():
                carrier.link.close()
            await bench.settle()
            assert bench.gateway.boards[MODEL].totals["failed"] == 6
            for reply in replies:
                reply.call.abort()
            assert (await bench.ask(COMPLETIONS, completion())).status == 200
            await bench.settle()

    with caplog.at_level("ERROR", logger="polyslo"):
        run(main)
    assert sum("is started again" in record.getMessage() for record in caplog.records) == 2


def test_a_port_that_somebody_has_is_refused():
    """Ports can be shared by whoever asks for it, which two gateways must not do by mistake."""
    first = bind("127.0.0.1", 0, 2)
    first[0].listen()
    port = first[0].getsockname()[1]
    assert first[1].getsockname()[1] == port
    with pytest.raises(ConfigError, match=r"server\.port: can't listen on 127\.0\.0\.1"):
        bind("127.0.0.1", port, 2)
    for bound in first:
        bound.close()
    for bound in bind("127.0.0.1", port, 1):
        bound.close()
