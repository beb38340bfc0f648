"""What is counted of clients' connections, as metrics: by process, from the tally that all processes write."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from polyslo.gateway.processes.tally import ACCEPTED, MALFORMED, OPEN, TURNED_AWAY, Tally


class ClientMetrics:
    """A collector of Prometheus."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterable[Metric]:
        """Read the tally."""
        labels = ["process"]
        families: dict[int, GaugeMetricFamily | CounterMetricFamily] = {
            OPEN: GaugeMetricFamily("polyslo_client_connections", "Clients' connections that are open.", labels=labels),
            ACCEPTED: CounterMetricFamily("polyslo_client_connections_accepted", "Connections taken.", labels=labels),
            TURNED_AWAY: CounterMetricFamily(
                "polyslo_client_connections_turned_away", "Connections that were too many.", labels=labels
            ),
            MALFORMED: CounterMetricFamily(
                "polyslo_client_malformed_requests", "Requests that were no HTTP, too large or too slow.", labels=labels
            ),
        }
        for row, counts in enumerate(self._tally.rows.tolist()):
            for column, family in families.items():
                family.add_metric([str(row)], counts[column])
        return families.values()
