"""What was learned of engines, for Prometheus: their own counts beside ours, their speed as believed, the slack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric

from polyslo.gateway.served_model import ServedModel

_GAUGES = {
    "requests": "Requests inside an engine, by its own count.",
    "kv_tokens": "KV tokens in use, by the engine's own count.",
    "own_requests": "Requests of ours that were sent there and are not over.",
    "foreign_requests": "Requests inside it that are not ours, as acted on.",
    "foreign_kv_tokens": "KV tokens in use that are not ours, as acted on.",
    "believed_slowness_ratio": "Iteration time over the profile's that decisions reckon with.",
}


class EngineLoads:
    """The collector of what was learned of engines."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        """Read what stands."""
        of = {
            name: GaugeMetricFamily(f"polyslo_engine_{name}", text, labels=["model", "engine"])
            for name, text in _GAUGES.items()
        }
        slack = GaugeMetricFamily("polyslo_slack_seconds", "Kept free of each TTFT.", labels=["model"])
        for name, model in self._models.items():
            slack.add_metric([name], model.slack.value_s)
            for instance in model.instances:
                labels, i = [name, instance.name], instance.index
                of["believed_slowness_ratio"].add_metric(labels, float(model.fleet.instances["slowness"][i]))
                of["own_requests"].add_metric(labels, len(instance.running))
                reading = model.reconciliation.of(i) if model.reconciliation is not None else None
                if reading is None or reading.told is None:
                    continue
                of["requests"].add_metric(labels, reading.told.num_requests)
                of["foreign_requests"].add_metric(labels, reading.foreign_requests)
                of["foreign_kv_tokens"].add_metric(labels, reading.foreign_kv_tokens)
                if reading.told.kv_tokens is not None:
                    of["kv_tokens"].add_metric(labels, reading.told.kv_tokens)
        return slack, *of.values()
