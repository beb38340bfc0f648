"""A gateway in a process of its own, and what metrics say, its or an engine's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from polyslo.fleets.local_process import LocalProcess
from polyslo.gateway.warmup import warm_up

START_S = 300.0


@contextmanager
def serving(configuration: str, folder: Path, name: str = "gateway") -> Iterator[tuple[str, str]]:
    """Serve as a configuration says; yield the address, and that of the metrics."""
    warm_up()
    file = folder / f"{name}.toml"
    file.write_text(configuration)
    process = LocalProcess(name, ["serve", str(file)])
    try:
        address, metrics = process.addresses(2, timeout_s=START_S)
        yield address, metrics
    finally:
        process.stop()


def read_metric(url: str, name: str, label: str = "") -> list[float]:
    """Return the samples of a metric, those with a label where one is given."""
    with urlopen(f"{url}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    own = (line for line in lines if line.startswith((f"{name}{{", f"{name} ")) and label in line)
    return [float(line.rsplit(" ", 1)[1]) for line in own]
