"""Prometheus metrics: leaf names as in the llm-d router, tiers as the label that its users ask for.

Counters and histograms move once a request or decision, never once a token; what stands (queues, instances) is read
when it is scraped. Seconds everywhere. Labels have a bounded number of values: tiers, rungs, reasons, instances.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from polyslo.core.state import DISPATCH, FITS, REASONS, REFUSE, RELEGATE, RUNGS, SCALED_UP
from polyslo.gateway.listeners import NOBODYS_MISS
from polyslo.gateway.relay import Relay
from polyslo.gateway.served_model import ServedModel
from polyslo.policies.table import POLYSERVE

TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)
TPOT_BUCKETS_S = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
DURATION_BUCKETS_S = (0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
CONTENT_TYPE = b"text/plain; version=1.0.0; charset=utf-8"


class Metrics:
    """The `Listener` that counts for Prometheus."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._registry = CollectorRegistry()
        self._models = models
        self._registry.register(_Standing(models))
        tier = ["slo_tier"]
        make: dict[str, Any] = {"registry": self._registry}
        self._requests = Counter("polyslo_request", "Requests taken in.", tier, **make)
        self._errors = Counter("polyslo_request_error", "Requests that failed.", [*tier, "outcome"], **make)
        self._met = Counter("polyslo_slo_attained", "Requests whose every token was on time.", tier, **make)
        self._over = Counter("polyslo_slo_requests", "Requests that ended, whatever became of them.", tier, **make)
        self._violations = Counter(
            "polyslo_request_slo_violation", "Requests that missed, by what they missed.", [*tier, "type"], **make
        )
        self._ttft = Histogram(
            "polyslo_request_ttft_seconds", "Time to first token.", tier, buckets=TTFT_BUCKETS_S, **make
        )
        self._tpot = Histogram(
            "polyslo_request_streaming_tpot_seconds",
            "Mean time per output token.",
            tier,
            buckets=TPOT_BUCKETS_S,
            **make,
        )
        self._foreseen_ttft = Histogram(
            "polyslo_request_predicted_ttft_seconds", "TTFT as foreseen.", tier, buckets=TTFT_BUCKETS_S, **make
        )
        self._foreseen_tpot = Histogram(
            "polyslo_request_predicted_tpot_seconds", "Largest TPOT foreseen.", tier, buckets=TPOT_BUCKETS_S, **make
        )
        self._duration = Histogram(
            "polyslo_request_duration_seconds", "Arrival to last token.", tier, buckets=DURATION_BUCKETS_S, **make
        )
        self._placements = Counter("polyslo_placements", "Dispatches by rung of the ladder.", [*tier, "rung"], **make)
        self._relegations = Counter("polyslo_relegations", "Requests that became best-effort.", tier, **make)
        self._refusals = Counter(
            "polyslo_refusals", "Refused requests, by each reason met on the way.", [*tier, "reason"], **make
        )
        self._scaled = Counter("polyslo_scale_events", "Instances that a tier gained or lost.", ["event"], **make)
        self._tokens = Counter("polyslo_output_tokens", "Tokens passed to clients.", tier, **make)

    def register(self, collector: Collector) -> None:
        """Tell of another part's numbers too."""
        self._registry.register(collector)

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self._registry)

    def arrived(self, relay: Relay) -> None:
        """See `Listener`."""
        self._requests.labels(relay.passage.tier_label).inc()

    def decided(self, model: ServedModel, relay: Relay, kind: int, i: int) -> None:
        """See `Listener`."""
        record, tier = model.fleet.requests[relay.r], relay.passage.tier_label
        if kind == DISPATCH:
            rung = int(record["rung"])
            self._placements.labels(tier, RUNGS[rung]).inc()
            if rung == SCALED_UP:
                self._scaled.labels("up").inc()
            if model.policy == POLYSERVE and not relay.passage.is_relegated:
                self._foreseen_ttft.labels(tier).observe(float(record["predicted_first_s"]) - relay.request.arrival_s)
                self._foreseen_tpot.labels(tier).observe(float(record["predicted_tpot_s"]))
        elif kind == RELEGATE:
            self._relegations.labels(tier).inc()
        if kind in (RELEGATE, REFUSE):
            bits = int(record["reasons"])
            for k in range(1, len(REASONS)):
                if bits >> k & 1:
                    self._refusals.labels(tier, REASONS[k]).inc()

    def moved(self, model: ServedModel, i: int) -> None:
        """See `Listener`."""
        if int(model.fleet.instances["group"][i]) == len(model.fleet.tpots_s) + 1:
            self._scaled.labels("down").inc()

    def health_changed(self, model: ServedModel, i: int) -> None:
        """See `Listener`."""
        news = model.instances[i].news
        self._scaled.labels("closed" if news == "unhealthy" else news).inc()

    def finished(self, relay: Relay, outcome: str) -> None:
        """See `Listener`."""
        tier, passage, request = relay.passage.tier_label, relay.passage, relay.request
        if outcome in NOBODYS_MISS:
            self._errors.labels(tier, outcome).inc()
            return
        self._over.labels(tier).inc()
        if outcome == "attained":
            self._met.labels(tier).inc()
        elif outcome in ("refused", "failed"):
            self._errors.labels(tier, outcome).inc()
        if not passage.tokens:
            return
        self._tokens.labels(tier).inc(passage.tokens)
        self._duration.labels(tier).observe(passage.last_token_s - request.arrival_s)
        if not request.is_streamed:  # its first token was not seen
            if passage.is_late:
                self._violations.labels(tier, "whole").inc()
            return
        ttft_s = passage.first_token_s - request.arrival_s
        self._ttft.labels(tier).observe(ttft_s)
        if passage.tokens > 1:
            self._tpot.labels(tier).observe((passage.last_token_s - passage.first_token_s) / (passage.tokens - 1))
        if passage.is_late:
            self._violations.labels(tier, "ttft" if ttft_s > request.ttft_s else "tpot").inc()


class _Standing:
    """What stands at the moment of a scrape."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        """Read the fleets."""
        running = GaugeMetricFamily("polyslo_request_running", "Requests under way.", labels=["model"])
        ready = GaugeMetricFamily("polyslo_ready_endpoints", "Instances that take requests.", labels=["model"])
        queue = GaugeMetricFamily(
            "polyslo_flow_control_queue_size", "Requests that pend, by tier.", labels=["model", "slo_tier"]
        )
        owned = GaugeMetricFamily("polyslo_tier_instances", "Instances by tier.", labels=["model", "slo_tier"])
        waiting = GaugeMetricFamily(
            "polyslo_per_endpoint_queue_size", "Prompts queued at an instance.", labels=["model", "instance"]
        )
        tokens = GaugeMetricFamily("polyslo_inflight_tokens", "KV tokens believed.", labels=["model", "instance"])
        slow = GaugeMetricFamily(
            "polyslo_slowness_ratio", "Iteration time seen over foreseen.", labels=["model", "instance"]
        )
        kv = GaugeMetricFamily("polyslo_average_kv_cache_utilization", "KV tokens over capacity.", labels=["model"])
        for name, model in self._models.items():
            records, idle = model.fleet.instances, len(model.tier_labels) + 1
            there = [instance.index for instance in model.instances]
            running.add_metric([name], model.num_in_flight)
            ready.add_metric([name], sum(instance.closed == FITS for instance in model.instances))
            used = (records["kv_tokens"] / records["kv_capacity_tokens"])[there]
            kv.add_metric([name], float(used.mean()) if there else 0.0)
            for k, tier in enumerate(model.tier_labels):
                queue.add_metric([name, tier], int(model.fleet.pending_size[k]))
                owned.add_metric([name, tier], int(model.fleet.group_size[k]))
            queue.add_metric([name, "best-effort"], int(model.fleet.pending_size[-1]))
            owned.add_metric([name, "idle"], int((records["group"][there] == idle).sum()))
            for instance in model.instances:
                labels = [name, instance.name]
                waiting.add_metric(labels, int(records["num_queued"][instance.index]))
                tokens.add_metric(labels, int(records["kv_tokens"][instance.index]))
                slow.add_metric(labels, float(model.decider.streams.slowness_ratio[instance.index]))
        return running, ready, queue, owned, waiting, tokens, slow, kv
