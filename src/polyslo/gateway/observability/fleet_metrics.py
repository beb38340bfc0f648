"""What Prometheus is told of fleets as they stand: read when it is scraped, nothing is counted in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from polyslo.core.state import FITS
from polyslo.gateway.instances.load import InstanceLoad, instance_load
from polyslo.gateway.relays.passage import BEST_EFFORT
from polyslo.gateway.served_model import ServedModel

# An instance is `engine`: the label `instance` is Prometheus's own, for the address that it scrapes.
MODEL, TIER, INSTANCE = ["model"], ["model", "slo_tier"], ["model", "engine"]
IDLE, PREFILL = "idle", "prefill"


class FleetMetrics(Collector):
    """Reads models, tiers and instances."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        """Read everything, a family at a time."""
        yield from self._model_families()
        yield from self._tier_families()
        yield from self._instance_families()

    def _model_families(self) -> Iterable[Metric]:
        running = GaugeMetricFamily("polyslo_request_running", "Requests under way.", labels=MODEL)
        ready = GaugeMetricFamily("polyslo_ready_endpoints", "Instances that take requests.", labels=MODEL)
        best_effort = GaugeMetricFamily(
            "polyslo_best_effort_running", "Best-effort requests, asked for or relegated, at instances.", labels=MODEL
        )
        kv = GaugeMetricFamily(
            "polyslo_average_kv_cache_utilization", "KV tokens believed over capacity, mean of instances.", labels=MODEL
        )
        for name, model in self._models.items():
            records = model.fleet.instances[[instance.index for instance in model.instances]]
            used = records["kv_tokens"] / records["kv_capacity_tokens"]
            running.add_metric([name], model.num_in_flight)
            best_effort.add_metric([name], int(records["num_best_effort"].sum()))
            ready.add_metric([name], sum(instance.closed == FITS for instance in model.instances))
            kv.add_metric([name], float(used.mean()) if len(used) else 0.0)
        return running, best_effort, ready, kv

    def _tier_families(self) -> Iterable[Metric]:
        queue = GaugeMetricFamily(
            "polyslo_flow_control_queue_size", "Requests that pend, and best-effort ones that wait.", labels=TIER
        )
        owned = GaugeMetricFamily("polyslo_tier_instances", "Instances by tier, and those that are idle.", labels=TIER)
        tpot = GaugeMetricFamily("polyslo_tier_tpot_seconds", "The TPOT that a tier keeps.", labels=TIER)
        for name, model in self._models.items():
            fleet, idle = model.fleet, len(model.tier_labels) + 1
            groups = fleet.instances["group"][[instance.index for instance in model.instances]]
            for k, tier in enumerate(model.tier_labels):
                queue.add_metric([name, tier], int(fleet.pending_size[k]))
                owned.add_metric([name, tier], int((groups == k).sum()))
                tpot.add_metric([name, tier], float(fleet.tpots_s[k]))
            queue.add_metric([name, BEST_EFFORT], int(fleet.pending_size[-1]))
            owned.add_metric([name, IDLE], int((groups == idle).sum()))
            if model.is_disaggregated:
                owned.add_metric([name, PREFILL], int((groups == idle - 1).sum()))
        return queue, owned, tpot

    def _instance_families(self) -> Iterable[Metric]:
        yield self._of_instances("polyslo_instance_up", "1 while an instance takes requests.", _up)
        yield self._of_instances(
            "polyslo_per_endpoint_queue_size",
            "Prompts queued at an instance, as believed.",
            lambda model: _column(model, "num_queued"),
        )
        yield self._of_instances(
            "polyslo_inflight_requests",
            "Requests sent to an instance.",
            lambda model: [len(instance.running) for instance in model.instances],
        )
        yield self._of_instances(
            "polyslo_inflight_tokens",
            "KV tokens believed at an instance.",
            lambda model: _column(model, "kv_tokens"),
        )
        yield self._of_instances(
            "polyslo_slowness_ratio",
            "Iteration time of an instance, seen over foreseen.",
            lambda model: model.decider.streams.slowness_ratio.tolist(),
        )
        yield self._of_instances(
            "polyslo_instance_load_ratio",
            "Iteration believed to run, over the TPOT of the tier.",
            lambda model: [load.load_ratio for load in _loads(model)],
        )
        yield self._of_instances(
            "polyslo_instance_slack_seconds",
            "What is left of the tier's TPOT beside the iteration.",
            lambda model: [load.slack_s for load in _loads(model)],
        )

    def _of_instances(self, name: str, meaning: str, read: Callable[[ServedModel], Sequence[float]]) -> Metric:
        """Return a metric that each instance has; `read` gives the values by index."""
        family = GaugeMetricFamily(name, meaning, labels=INSTANCE)
        for model_name, model in self._models.items():
            values = read(model)
            for instance in model.instances:
                family.add_metric([model_name, instance.name], values[instance.index])
        return family


def _up(model: ServedModel) -> list[float]:
    return [float(instance.closed == FITS) for instance in model.instances]


def _column(model: ServedModel, name: str) -> list[float]:
    column: list[float] = model.fleet.instances[name].tolist()
    return column


def _loads(model: ServedModel) -> Iterator[InstanceLoad]:
    return (instance_load(model.fleet, instance.index) for instance in model.instances)
