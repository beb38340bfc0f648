"""Print what gateways cost beside each other, measured in one run on this machine.

    python benchmarks/gateways [--runs 3] [--only polyslo,HAProxy] [--seconds 5] [--quick] [--json FILE]
    python benchmarks/gateways --streams 9900 [--only polyslo]
    python benchmarks/gateways --streams 20000 --only polyslo --processes 3

The last forms hold so many streams, a token a second each, and print what came of them; a stream takes two open files
of a gateway's process. The peers are installed
by `make peers`; what is not there has no row. Every gateway is started afresh in every run, the runs go round all of
them, and medians are printed, so that what else a machine does meets them alike. CPU times are those of the
gateway's processes, which a busy machine changes least; rates and latencies it changes more.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent.parent / "tests"))  # what installs the peers

import phases
from gateway import running
from load import clients, source
from many import hold
from peers import Peer, peers
from phases import Sizes

NUM_ENGINES = 4
QUICK = Sizes(pairs=200, resting_streams=200, seconds=1.5)
STEPS = (
    (phases.requests, ("requests_per_s", "request_cpu_s")),
    (phases.paced, ("paced_cpu_s", "kept_pace_ratio")),
    (phases.memory, ("stream_bytes",)),
    (phases.flood, ("flood_per_s", "flood_cpu_s")),
)
COLUMNS = (
    ("added P50, ms", "added_p50_s", 1e3, "{:.2f}"),
    ("added P99, ms", "added_p99_s", 1e3, "{:.2f}"),
    ("added first byte P50, ms", "added_first_s", 1e3, "{:.2f}"),
    ("requests/s", "requests_per_s", 1, "{:,.0f}"),
    ("CPU, us a request", "request_cpu_s", 1e6, "{:,.0f}"),
    ("CPU, us a paced chunk", "paced_cpu_s", 1e6, "{:.1f}"),
    ("kept pace", "kept_pace_ratio", 100, "{:.0f}%"),
    ("flooded chunks/s", "flood_per_s", 1, "{:,.0f}"),
    ("CPU, us a flooded chunk", "flood_cpu_s", 1e6, "{:.1f}"),
    ("KiB an open stream", "stream_bytes", 1 / 1024, "{:.1f}"),
)


def main() -> None:
    """Measure and print."""
    options = _options()
    chosen = [peer for peer in peers() if options.only is None or peer.name in options.only.split(",")]
    versions = {peer.name: peer.version() for peer in chosen}
    there = [peer for peer in chosen if versions[peer.name]]
    print(f"{date.today()}, {platform.processor() or platform.machine()}, {platform.release()}", flush=True)
    for peer in chosen:
        print(f"{peer.name} {versions[peer.name] or 'is not installed: make peers'}", flush=True)
    if options.streams:
        for peer in there:
            hold(peer, options.streams, options.seconds, options.processes)
        return
    sizes = QUICK if options.quick else Sizes(seconds=options.seconds)
    found: dict[str, list[dict[str, float]]] = {peer.name: [] for peer in there}
    for run in range(options.runs):
        for peer in there:
            try:
                found[peer.name].append(measure(peer, sizes))
            except (RuntimeError, OSError) as error:
                print(f"{peer.name}: {error}", file=sys.stderr, flush=True)
                continue
            print(f"run {run + 1}: {_row(peer.name, found[peer.name][-1:])}", file=sys.stderr, flush=True)
    _print_table(found)
    if options.json:
        facts = {"date": str(date.today()), "sizes": dataclasses.asdict(sizes), "versions": versions, "runs": found}
        Path(options.json).write_text(json.dumps(facts, indent=1))


def measure(peer: Peer, sizes: Sizes) -> dict[str, float]:
    """Start a gateway, measure it once and stop it; what fails is left out and told."""
    found: dict[str, float] = {}
    sizes = dataclasses.replace(
        sizes,
        paced_streams=min(sizes.paced_streams, peer.most_streams),
        flood_streams=min(sizes.flood_streams, peer.most_streams),
        resting_streams=min(sizes.resting_streams, peer.most_streams),
    )
    with source(NUM_ENGINES) as ports, running(peer, ports) as gateway:
        names = ("added_p50_s", "added_p99_s", "added_first_s")
        found |= zip(names, phases.added_latency_s(gateway, ports[0], sizes), strict=True)
        for step, names in STEPS:
            with clients() as load:
                try:
                    found |= zip(names, step(gateway, load, sizes), strict=True)
                except (RuntimeError, OSError) as error:
                    print(f"{peer.name}, {step.__name__}: {error}", file=sys.stderr, flush=True)
    return found


def _print_table(found: dict[str, list[dict[str, float]]]) -> None:
    print("| gateway | " + " | ".join(title for title, *_ in COLUMNS) + " |")
    print("|---" * (1 + len(COLUMNS)) + "|")
    for name, runs in found.items():
        print(_row(name, runs), flush=True)


def _row(name: str, runs: Sequence[dict[str, float]]) -> str:
    cells = []
    for _, key, factor, form in COLUMNS:
        values = [run[key] for run in runs if key in run]
        cells.append(form.format(factor * statistics.median(values)) if values else "-")
    return f"| {name} | " + " | ".join(cells) + " |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", help="names, with commas between")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    parser.add_argument("--json", help="write every run there")
    parser.add_argument("--streams", type=int, help="hold so many instead")
    parser.add_argument("--processes", type=int, default=1, help="of polyslo, for so many streams")
    return parser.parse_args()


if __name__ == "__main__":
    main()
