"""What Prometheus is told of the gateway itself: its loop, its connections, its places, what it bounds."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from polyslo.gateway.config.gateway import GatewayConfig
from polyslo.gateway.relays.places import Places

LAG_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)


class ProcessMetrics(Collector):
    """Reads places and connections; `lag` is told how late the event loop is."""

    def __init__(
        self,
        registry: CollectorRegistry,
        config: GatewayConfig,
        places: Places,
    ) -> None:
        self._config = config
        self._places = places
        self.lag = Histogram(
            "polyslo_event_loop_lag_seconds",
            "How late a call came that was due ten times a second.",
            buckets=LAG_BUCKETS_S,
            registry=registry,
        )
        ProcessCollector(registry=registry)

    def collect(self) -> Iterable[Metric]:
        """Read everything."""
        places = GaugeMetricFamily(
            "polyslo_places", "Requests that hold a place or wait in line for one.", labels=["state"]
        )
        most = GaugeMetricFamily("polyslo_places_limit", "How many may.", labels=["state"])
        places.add_metric(["taken"], self._places.num_taken)
        places.add_metric(["waiting"], self._places.num_waiting)
        most.add_metric(["taken"], self._config.server.max_concurrent_requests)
        most.add_metric(["waiting"], self._config.server.queue_size)
        yield places
        yield most
        yield GaugeMetricFamily(
            "polyslo_slo_attainment_target_ratio",
            "The attainment that is aimed at: `telemetry.attainment_target`.",
            value=self._config.telemetry.attainment_target,
        )
