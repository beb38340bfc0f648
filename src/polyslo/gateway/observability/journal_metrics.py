"""What Prometheus is told of journals and shadow policies, read when it is scraped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from polyslo.gateway.journal.journal import Journal
from polyslo.gateway.served_model import ServedModel


class JournalMetrics(Collector):
    """Reads what is recorded, and how often shadow policies agree."""

    def __init__(self, models: Mapping[str, ServedModel], journals: Mapping[str, Journal]) -> None:
        self._models = models
        self._journals = journals

    def collect(self) -> Iterable[Metric]:
        """Read everything."""
        return *self._journal_families(), *self._shadow_families()

    def _journal_families(self) -> Iterable[Metric]:
        recorded = CounterMetricFamily("polyslo_journal_records", "Records of inputs and outcomes.", labels=["model"])
        lost = CounterMetricFamily("polyslo_journal_lost_records", "Those that no file has.", labels=["model"])
        is_open = GaugeMetricFamily("polyslo_journal_open", "1 while a file is being written.", labels=["model"])
        for name, journal in self._journals.items():
            recorded.add_metric([name], journal.num_recorded)
            lost.add_metric([name], journal.num_lost)
            is_open.add_metric([name], journal.is_open)
        return recorded, lost, is_open

    def _shadow_families(self) -> Iterable[Metric]:
        labels = ["model", "policy"]
        choices = CounterMetricFamily(
            "polyslo_shadow_choices", "Choices of shadow policies, by what was done.", labels=[*labels, "verdict"]
        )
        agreement = GaugeMetricFamily(
            "polyslo_shadow_agreement_ratio", "Share of the requests that both would send to one instance.",
            labels=labels,
        )  # fmt: skip
        for name, model in self._models.items():
            if model.shadow is None:
                continue
            found = model.shadow.agreement
            for verdict, count in (("same", found.num_same), ("other", found.num_other), ("open", found.num_open)):
                choices.add_metric([name, model.shadow.name, verdict], count)
            agreement.add_metric([name, model.shadow.name], found.ratio)
        return choices, agreement
