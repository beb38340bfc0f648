"""What Prometheus is told of fleets as they stand: read when it is scraped, nothing is counted in between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from polyslo.core.state import FITS
from polyslo.gateway.instance_load import instance_load
from polyslo.gateway.served_model import ServedModel

MODEL, TIER, INSTANCE = ["model"], ["model", "slo_tier"], ["model", "instance"]
BEST_EFFORT, IDLE, PREFILL = "best-effort", "idle", "prefill"


class FleetMetrics(Collector):
    """Reads models, tiers and instances."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        """Read everything, a family at a time."""
        return *self._model_families(), *self._tier_families(), *self._instance_families()

    def _model_families(self) -> Iterable[Metric]:
        running = GaugeMetricFamily("polyslo_request_running", "Requests under way.", labels=MODEL)
        ready = GaugeMetricFamily("polyslo_ready_endpoints", "Instances that take requests.", labels=MODEL)
        kv = GaugeMetricFamily(
            "polyslo_average_kv_cache_utilization", "KV tokens believed over capacity, mean of instances.", labels=MODEL
        )
        for name, model in self._models.items():
            records = model.fleet.instances[: len(model.instances)]
            used = records["kv_tokens"] / records["kv_capacity_tokens"]
            running.add_metric([name], model.num_in_flight)
            ready.add_metric([name], sum(instance.closed == FITS for instance in model.instances))
            kv.add_metric([name], float(used.mean()) if len(used) else 0.0)
        return running, ready, kv

    def _tier_families(self) -> Iterable[Metric]:
        queue = GaugeMetricFamily(
            "polyslo_flow_control_queue_size", "Requests that pend, and best-effort ones that wait.", labels=TIER
        )
        owned = GaugeMetricFamily("polyslo_tier_instances", "Instances by tier, and those that are idle.", labels=TIER)
        tpot = GaugeMetricFamily("polyslo_tier_tpot_seconds", "The TPOT that a tier keeps.", labels=TIER)
        for name, model in self._models.items():
            fleet, num_room = model.fleet, len(model.fleet.instances) - len(model.instances)
            for k, tier in enumerate(model.tier_labels):
                queue.add_metric([name, tier], int(fleet.pending_size[k]))
                owned.add_metric([name, tier], int(fleet.group_size[k]))
                tpot.add_metric([name, tier], float(fleet.tpots_s[k]))
            queue.add_metric([name, BEST_EFFORT], int(fleet.pending_size[-1]))
            owned.add_metric([name, IDLE], int(fleet.group_size[-1]) - num_room)
            if fleet.group_size[-2]:
                owned.add_metric([name, PREFILL], int(fleet.group_size[-2]))
        return queue, owned, tpot

    def _instance_families(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("polyslo_instance_up", "1 while an instance takes requests.", labels=INSTANCE)
        waiting = GaugeMetricFamily(
            "polyslo_per_endpoint_queue_size", "Prompts queued at an instance, as believed.", labels=INSTANCE
        )
        requests = GaugeMetricFamily("polyslo_inflight_requests", "Requests sent to an instance.", labels=INSTANCE)
        tokens = GaugeMetricFamily("polyslo_inflight_tokens", "KV tokens believed at an instance.", labels=INSTANCE)
        slow = GaugeMetricFamily(
            "polyslo_slowness_ratio", "Iteration time of an instance, seen over foreseen.", labels=INSTANCE
        )
        load = GaugeMetricFamily(
            "polyslo_instance_load_ratio", "Iteration believed to run, over the TPOT of the tier.", labels=INSTANCE
        )
        slack = GaugeMetricFamily(
            "polyslo_instance_slack_seconds", "What is left of the tier's TPOT beside the iteration.", labels=INSTANCE
        )
        for name, model in self._models.items():
            records, ratios = model.fleet.instances, model.decider.streams.slowness_ratio
            for instance in model.instances:
                i, labels = instance.index, [name, instance.name]
                believed = instance_load(model.fleet, i)
                up.add_metric(labels, instance.closed == FITS)
                waiting.add_metric(labels, int(records["num_queued"][i]))
                requests.add_metric(labels, len(instance.running))
                tokens.add_metric(labels, int(records["kv_tokens"][i]))
                slow.add_metric(labels, float(ratios[i]))
                load.add_metric(labels, believed.load_ratio)
                slack.add_metric(labels, believed.slack_s)
        return up, waiting, requests, tokens, slow, load, slack
