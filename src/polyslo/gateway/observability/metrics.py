"""Prometheus metrics: everything that the gateway tells of itself in numbers, in one registry.

Requests are counted once a request or decision (`model_metrics`); what stands, queues and instances, is read when it is
scraped (`fleet_metrics`, `process_metrics`). Other parts register collectors of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from polyslo.gateway.config.gateway import GatewayConfig
from polyslo.gateway.observability.fleet_metrics import FleetMetrics
from polyslo.gateway.observability.intervals import TokenIntervals
from polyslo.gateway.observability.label_values import LabelValues
from polyslo.gateway.observability.model_metrics import ModelMetrics, door_outcome
from polyslo.gateway.observability.request_families import RequestFamilies
from polyslo.gateway.relays.listeners import Visitor
from polyslo.gateway.served_model import ServedModel

QUEUE_REASONS = ("saturated", "expired", "no_instance")
MOST_SAMPLES = 100  # in one piece
CONTENT_TYPE = b"text/plain; version=1.0.0; charset=utf-8"


class Metrics:
    """The registry, and who counts into it."""

    def __init__(self, models: Mapping[str, ServedModel], config: GatewayConfig) -> None:
        self._counted = CollectorRegistry()  # what requests move
        self.registry = CollectorRegistry()  # what stands
        self._models = models
        most = config.telemetry.max_label_values
        self._most_values = most
        self._tenants = LabelValues(most, [key.tenant or key.name for key in config.keys])
        self._named = LabelValues(most, [model.name for model in config.models])
        self._families = RequestFamilies(self._counted)
        self._turned_away = Counter(
            "polyslo_turned_away", "Generations answered before anything was decided about them.", ["reason"],
            registry=self._counted,
        )  # fmt: skip
        for reason in QUEUE_REASONS:  # a rate of nothing compares with nothing
            self._turned_away.labels(reason)
        self._intervals: dict[str, TokenIntervals] = {}
        self.registry.register(FleetMetrics(models))

    def of(self, model: str) -> ModelMetrics:
        """Return the `Listener` of a model."""
        self._intervals[model] = TokenIntervals(self._families.itl.labels(model).observe)
        return ModelMetrics(self._families, model, self._tenants, self._named, LabelValues(self._most_values))

    def watch(self, model: ServedModel) -> None:
        """Let a model's decider tell how long decisions take."""
        model.decider.took = self._families.decision.labels(model.name).observe

    def register(self, collector: Collector) -> None:
        """Tell of another part's numbers too."""
        self.registry.register(collector)

    def turned_away(self, visitor: Visitor, reason: str) -> None:
        """See `Doorkeeper`."""
        self._turned_away.labels(reason).inc()
        outcome = door_outcome(reason)
        if outcome is not None:
            self._families.queue_outcomes.labels(outcome).inc()

    def tick(self) -> None:
        """Look at streams; to be called about once a second."""
        for name, model in self._models.items():
            self._intervals[name].look(model)

    @property
    def registries(self) -> tuple[CollectorRegistry, ...]:
        """All that is exported."""
        return self._counted, self.registry

    def pieces(self) -> Iterator[bytes]:
        """Yield everything in Prometheus's text format, a metric at a time.

        What was counted is that of one moment, so that no share is above one; what stands is read piece by piece.
        Gauges of many instances come in parts; what else has many samples has them of many tiers, which are few.
        """
        for family in chain(list(self._counted.collect()), self.registry.collect()):
            yield from _parts(family) if family.type == "gauge" else (generate_latest(_One(family)),)


def _parts(family: Metric) -> Iterator[bytes]:
    """Yield a gauge's text, some samples at a time; what it means stands before the first."""
    samples = family.samples
    for start in range(0, max(1, len(samples)), MOST_SAMPLES):
        family.samples = samples[start : start + MOST_SAMPLES]
        text = generate_latest(_One(family))
        yield text if start == 0 else text.split(b"\n", 2)[2]


class _One:
    """A registry of one metric."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> tuple[Metric, ...]:
        """Return it."""
        return (self._family,)
