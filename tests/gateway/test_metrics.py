"""What Prometheus is told: every metric by name, what moves it, and how many values a label may have."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fakes import FakeExchange
from gateway_bench import CHAT, COMPLETIONS, HANG_S, MODEL, Bench, chat, completion, run
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from polyslo.engines.emulated_engine import EngineSettings
from polyslo.gateway.config.gateway import parse_config
from polyslo.gateway.observability.intervals import TokenIntervals
from polyslo.gateway.observability.label_values import LabelValues
from polyslo.gateway.observability.loop_lag import PERIOD_S, LoopLag
from polyslo.gateway.observability.metrics import Metrics
from polyslo.gateway.observability.metrics_reference import OWN, described, metrics_of_a_gateway, with_table
from polyslo.gateway.observability.scrape import Scrape
from polyslo.gateway.requests.keys import hash_of

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
TENANT = b"x-llm-d-inference-fairness-id"

# Of docs/CONVENTIONS: the llm-d router's leaf names, and what no router has.
PROMISED = {
    "request_total": ("counter", "slo_tier"),
    "request_error_total": ("counter", "slo_tier"),
    "request_duration_seconds": ("histogram", "slo_tier"),
    "request_ttft_seconds": ("histogram", "slo_tier"),
    "request_streaming_tpot_seconds": ("histogram", "slo_tier"),
    "request_streaming_itl_seconds": ("histogram", None),
    "request_predicted_ttft_seconds": ("histogram", "slo_tier"),
    "request_predicted_tpot_seconds": ("histogram", "slo_tier"),
    "request_slo_violation_total": ("counter", "type"),
    "request_running": ("gauge", "model"),
    "scheduler_e2e_duration_seconds": ("histogram", "model"),
    "ready_endpoints": ("gauge", "model"),
    "per_endpoint_queue_size": ("gauge", "engine"),
    "inflight_requests": ("gauge", "engine"),
    "inflight_tokens": ("gauge", "engine"),
    "average_kv_cache_utilization": ("gauge", "model"),
    "flow_control_queue_size": ("gauge", "slo_tier"),
    "flow_control_request_queue_duration_seconds": ("histogram", "outcome"),
    "flow_control_requests_total": ("counter", "outcome"),
    "slo_attained_total": ("counter", "slo_tier"),
    "slo_requests_total": ("counter", "slo_tier"),
    "placements_total": ("counter", "rung"),
    "refusals_total": ("counter", "reason"),
    "promotions_total": ("counter", "host_tier"),
    "tier_instances": ("gauge", "slo_tier"),
    "scale_events_total": ("counter", "event"),
}


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    """The metrics of a gateway that has just been started."""
    return asyncio.run(metrics_of_a_gateway(str(tmp_path_factory.mktemp("journal"))))


def test_the_table_of_metrics_is_that_of_the_gateway(metrics):
    """If not: python -m polyslo.gateway.observability.metrics_reference docs/metrics.md."""
    assert with_table(PAGE, metrics) == PAGE


def test_every_promised_metric_is_there(metrics):
    """With its type, a sentence that explains it, and the label that tells its cases apart."""
    by_name = {one.name: one for one in metrics}
    for leaf, (kind, label) in PROMISED.items():
        found = by_name[OWN + leaf]
        assert found.kind == kind, leaf
        assert label is None or label in found.labels, leaf
    assert all(one.meaning.endswith(".") for one in metrics)


def test_times_are_seconds_and_buckets_rise(metrics):
    """A histogram is of seconds, and its buckets ascend to infinity."""
    for one in metrics:
        if one.kind == "histogram":
            assert one.name.endswith("_seconds")
            assert list(one.buckets) == sorted(set(one.buckets))


async def scrape(bench):
    """Return every sample as {(name, labels): value}."""
    text = (await bench.get(b"/metrics")).body.decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples, name, **labels):
    """Return one sample's value."""
    return samples[OWN + name, tuple(sorted(labels.items()))]


def test_a_request_is_counted_once_everywhere():
    """Two answers and a malformed request: counts, queue, decision, tokens and tenants agree."""

    async def main():
        async with Bench() as bench:
            await bench.ask(COMPLETIONS, completion(8, stream=True), [(TENANT, b"acme")])
            await bench.ask(CHAT, chat(5))
            assert (await bench.ask(COMPLETIONS, b"{")).status == 400
            await bench.settle()
            found = await scrape(bench)
            tier = {"model": MODEL, "slo_tier": "50ms"}
            for name in ("request_total", "slo_requests_total", "slo_attained_total", "request_duration_seconds_count"):
                assert value(found, name, **tier) == 2, name
            for name in ("request_ttft_seconds_count", "request_streaming_tpot_seconds_count"):
                assert value(found, name, **tier) == 1, name  # of the one that was streamed
            assert value(found, "output_tokens_total", **tier) == 13
            assert sum(found[key] for key in found if key[0] == f"{OWN}placements_total") == 2  # by whatever rungs
            assert value(found, "scale_events_total", event="up", **tier) >= 1
            assert value(found, "scheduler_e2e_duration_seconds_count", model=MODEL) == 2
            dispatched = {"outcome": "Dispatched"}
            assert value(found, "flow_control_requests_total", **dispatched) == 2
            assert value(found, "flow_control_request_queue_duration_seconds_count", **tier, **dispatched) == 2
            assert value(found, "turned_away_total", reason="bad_request") == 1
            assert value(found, "tenant_requests_total", tenant="acme", outcome="attained") == 1
            assert value(found, "tenant_requests_total", tenant="none", outcome="attained") == 1
            assert value(found, "requested_models_total", requested=MODEL) == 2
            assert value(found, "instance_up", model=MODEL, engine="e0") == 1
            assert value(found, "tier_tpot_seconds", **tier) == 0.05
            assert value(found, "slo_attainment_target_ratio") == 0.99

    run(main)


def test_forecasts_are_held_against_what_came():
    """With engines that chunk dynamically every dispatch has a forecast, and its error is observed."""

    async def main():
        async with Bench(settings=EngineSettings(dynamic_chunking=True), model={"dynamic_chunking": True}) as bench:
            await bench.ask(COMPLETIONS, completion(8, stream=True))
            await bench.settle()
            found = await scrape(bench)
            tier = {"model": MODEL, "slo_tier": "50ms"}
            for name in ("request_predicted_ttft", "request_predicted_tpot", "request_ttft_error"):
                assert value(found, f"{name}_seconds_count", **tier) == 1, name

    run(main)


def test_tenants_that_clients_make_up_count_as_other():
    """Two may have labels of their own; a key's tenant has one in any case."""

    async def main():
        keys = {"a": {"hash": hash_of(b"secret-a"), "tenant": "configured"}, "b": {"hash": hash_of(b"secret-b")}}
        async with Bench(telemetry={"max_label_values": 2}, keys=keys) as bench:
            for name in (b"one", b"two", b"three", b"four", b"one"):
                headers = [(b"authorization", b"Bearer secret-b"), (TENANT, name)]
                assert (await bench.ask(COMPLETIONS, completion(1), headers)).status == 200
            await bench.ask(COMPLETIONS, completion(1), [(b"authorization", b"Bearer secret-a")])
            await bench.settle()
            found = await scrape(bench)
            counts = {
                tenant: value(found, "tenant_requests_total", tenant=tenant, outcome="attained")
                for tenant in ("one", "two", "other", "configured")
            }
            assert counts == {"one": 2, "two": 1, "other": 2, "configured": 1}
            assert not any("three" in str(labels) for _, labels in found)

    run(main)


def test_a_label_is_bounded_in_number_and_length():
    """Known values never take the room of others; a value that is long is cut."""
    labels = LabelValues(2, ["known"])
    assert [labels.of(value) for value in ("a", "known", "b", "c", "a")] == ["a", "known", "b", "other", "a"]
    assert labels.of("known" * 100) == "other"
    assert len(LabelValues(1).of("x" * 10_000)) == 128


def test_who_waits_in_line_and_who_gives_up_is_counted():
    """One place: the second request waits, the third finds no room, the second's client leaves."""

    async def main():
        async with Bench(speed=1.0, server={"max_concurrent_requests": 1, "queue_size": 1}) as bench:
            first = bench.send(COMPLETIONS, completion(2000, stream=True))
            await first.until(lambda reply: b'"text"' in reply.body)
            second = bench.send(COMPLETIONS, completion(1))
            while bench.gateway.places.num_waiting == 0:
                await asyncio.sleep(0.002)
            found = await scrape(bench)
            assert (value(found, "places", state="taken"), value(found, "places", state="waiting")) == (1, 1)
            assert value(found, "request_running", model=MODEL) == 1
            assert value(found, "inflight_requests", model=MODEL, engine="e0") == 1
            assert (await bench.ask(COMPLETIONS, completion(1))).status == 429
            second.call.abort()
            while bench.gateway.places.num_waiting:
                await asyncio.sleep(0.002)
            first.call.abort()
            await bench.settle()
            found = await scrape(bench)
            assert value(found, "flow_control_requests_total", outcome="RejectedCapacity") == 1
            assert value(found, "flow_control_requests_total", outcome="EvictedContextCancelled") == 1
            assert value(found, "turned_away_total", reason="cancelled") == 1
            assert value(found, "request_error_total", model=MODEL, slo_tier="50ms", outcome="cancelled") == 1
            assert (OWN + "slo_requests_total", (("model", MODEL), ("slo_tier", "50ms"))) in found
            assert value(found, "slo_requests_total", model=MODEL, slo_tier="50ms") == 0  # nobody's miss

    run(main)


def test_intervals_are_means_between_looks():
    """From one look at a stream to the next: time over tokens; a stream that stands still is waited for."""

    async def main():
        async with Bench(speed=1.0) as bench:
            seen = []
            intervals = TokenIntervals(seen.append)
            reply = bench.send(COMPLETIONS, completion(2000, stream=True))
            await reply.until(lambda reply: reply.body.count(b'"text"') >= 3)
            (relay,) = bench.model.instances[0].running
            intervals.look(bench.model)
            assert seen == []
            tokens, last_s = relay.passage.tokens, relay.passage.last_token_s
            intervals.look(bench.model)  # not a turn of the loop later: nothing came
            assert seen == []
            await reply.until(lambda reply: reply.body.count(b'"text"') >= 12)
            intervals.look(bench.model)
            gained = relay.passage.tokens - tokens
            assert seen == [pytest.approx((relay.passage.last_token_s - last_s) / gained)]
            reply.call.abort()
            await bench.settle()
            intervals.look(bench.model)
            assert len(seen) == 1
            assert not intervals._seen  # nothing is kept of a request that is over

    run(main)


def test_the_loop_tells_how_late_it_is():
    """Once a period, never below zero, and no more after `stop`."""

    async def main():
        seen = []
        lag = LoopLag(seen.append)
        lag.start()
        async with asyncio.timeout(HANG_S):
            while len(seen) < 2:
                await asyncio.sleep(PERIOD_S / 4)
        lag.stop()
        count = len(seen)
        await asyncio.sleep(2 * PERIOD_S)
        assert len(seen) == count
        assert min(seen) >= 0.0

    run(main)


def test_what_is_exported_is_what_is_described():
    """A scrape after traffic has no sample of ours that the table does not name, nor a label."""

    async def main():
        async with Bench(2) as bench:
            await bench.ask(COMPLETIONS, completion(8, stream=True))
            await bench.settle()
            known = {
                name: set(one.labels) for one in described(bench.gateway.metrics.registries) for name in one.series
            }
            for name, labels in await scrape(bench):
                bare = name.removesuffix("_created")
                if name == bare:
                    assert {label for label, _ in labels} - {"le"} == known[name], name

    run(main)


def test_a_large_gauge_comes_in_pieces_that_make_one_metric():
    """250 samples are three pieces; together they parse as one metric with each sample once."""
    family = GaugeMetricFamily("polyslo_many", "Many.", labels=["instance"])
    for k in range(250):
        family.add_metric([f"i{k}"], k)
    metrics = Metrics({}, parse_config({"models": [{"endpoints": [{"url": "http://127.0.0.1:9"}]}]}, "test"))
    metrics.register(_Fixed(family))
    pieces = [piece for piece in metrics.pieces() if b"polyslo_many" in piece]
    assert len(pieces) == 3
    (parsed,) = text_string_to_metric_families(b"".join(pieces).decode())
    assert [sample.value for sample in parsed.samples] == list(range(250))


class _Fixed:
    def __init__(self, family):
        self._family = family

    def collect(self):
        """Return it."""
        return [self._family]


def test_what_was_counted_is_told_as_of_one_moment():
    """A request that ends during a scrape is in both of attainment's counters or in neither."""

    async def main():
        async with Bench() as bench:
            await bench.ask(COMPLETIONS, completion(1))
            await bench.settle()
            pieces = bench.gateway.metrics.pieces()
            text = next(pieces)
            await bench.ask(COMPLETIONS, completion(1))
            await bench.settle()
            text += b"".join(pieces)
            found = [
                sample.value
                for family in text_string_to_metric_families(text.decode())
                for sample in family.samples
                if sample.name in (OWN + "slo_requests_total", OWN + "slo_attained_total")
            ]
            assert found == [1, 1]

    run(main)


def test_a_scrape_waits_for_a_slow_client_and_ends_for_one_that_left():
    """While the client is blocked nothing is written; when it has left, never again."""

    async def main():
        taken = []
        exchange = FakeExchange()
        Scrape(exchange, [], (taken.append(k) or b"%d" % k for k in range(1000)))
        await asyncio.sleep(0)
        exchange.block(True)
        count = len(taken)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(taken) == count
        exchange.block(False)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(taken) > count
        exchange.leave()
        count = len(taken)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(taken) == count < 1000

    run(main)
