"""The table of all metrics, written from a gateway that has just been started, so that the two can't differ.

`python -m polyslo.gateway.observability.metrics_reference docs/metrics.md` writes it anew between the page's two marks.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from polyslo.gateway.app import Gateway
from polyslo.gateway.config.gateway import parse_config

BEGIN, END = "<!-- written by polyslo.gateway.observability.metrics_reference -->", "<!-- end of what is written -->"
HEADER = "| metric | type | labels | meaning |\n|---|---|---|---|"
NOWHERE = "http://127.0.0.1:9"  # an instance that does not answer: what is told does not depend on it
OWN = "polyslo_"


@dataclass(frozen=True, slots=True)
class Described:
    """A metric: its name as Prometheus has it, its type, its labels, what it means, and its buckets if it has any."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The names that its samples have."""
        if self.kind != "histogram":
            return (self.name,)
        return (f"{self.name}_bucket", f"{self.name}_sum", f"{self.name}_count")


def described(registries: Iterable[CollectorRegistry]) -> tuple[Described, ...]:
    """Return every metric of registries, by name, whether or not anything was counted yet."""
    found = [one for registry in registries for collector in _collectors(registry) for one in _described(collector)]
    return tuple(sorted(found, key=lambda one: one.name))


def table(metrics: Iterable[Described]) -> str:
    """Return metrics as a table in Markdown, and the buckets of histograms below it."""
    metrics = tuple(metrics)
    lines = [HEADER, *(_row(one) for one in metrics), "", "Buckets, in seconds:", ""]
    by_buckets: dict[tuple[float, ...], list[str]] = {}
    for one in metrics:
        if one.buckets:
            by_buckets.setdefault(one.buckets, []).append(f"`{one.name}`")
    lines += [f"- {', '.join(names)}: {', '.join(f'{b:g}' for b in buckets)}" for buckets, names in by_buckets.items()]
    return "\n".join(lines) + "\n"


def with_table(page: str, metrics: Sequence[Described]) -> str:
    """Return a page with the table between its two marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table(metrics)}{END}{after}"


async def metrics_of_a_gateway(folder: str) -> tuple[Described, ...]:
    """Start a gateway that keeps a journal in `folder`, and return the metrics that are its own."""
    config = {
        "server": {"port": 0, "metrics_port": 0},
        "models": [{"endpoints": [{"url": NOWHERE}]}],
        "journal": {"file": f"{folder}/journal"},
    }
    gateway = Gateway(parse_config(config, "reference"))
    await gateway.start()
    try:
        return tuple(one for one in described(gateway.metrics.registries) if one.name.startswith(OWN))
    finally:
        await gateway.stop()


def _collectors(registry: CollectorRegistry) -> Iterator[Collector]:
    """Yield what is registered; prometheus-client has no public way to ask."""
    yield from registry._collector_to_names


def _described(collector: Collector) -> Iterator[Described]:
    if isinstance(collector, MetricWrapperBase):
        buckets = tuple(collector._kwargs["buckets"]) if isinstance(collector, Histogram) else ()
        (family,) = collector.describe()
        yield _of(family, collector._labelnames, buckets)
        return
    for family in collector.collect():
        yield _of(family, getattr(family, "_labelnames", ()), ())


def _of(family: Metric, labels: Sequence[str], buckets: tuple[float, ...]) -> Described:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return Described(name, family.type, tuple(labels), family.documentation, buckets)


def _row(one: Described) -> str:
    labels = ", ".join(f"`{label}`" for label in one.labels) or "-"
    return f"| `{one.name}` | {one.kind} | {labels} | {one.meaning} |"


def main(page: Path) -> None:
    """Write the table into a page."""
    with TemporaryDirectory() as folder:
        metrics = asyncio.run(metrics_of_a_gateway(folder))
    page.write_text(with_table(page.read_text(encoding="utf-8"), metrics), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
