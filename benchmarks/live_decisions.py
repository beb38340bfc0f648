"""Print what the gateway's decider costs: a decision at an arrival, and a digest of what streams showed.

    python benchmarks/live_decisions.py [--instances 8,32,100] [--load 0.8]

The decider stands before emulated engines in virtual time, as in the tests; only calls into it are timed, Python and
compiled code together. A digest is one of all news of a step; its cost by token is printed too.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from polyslo.gateway.warmup import warm_up
from polyslo.sim.setting import Setting

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from gateway.virtual_fleet import VirtualFleet  # the tests' harness

SPAN_S = 10.0


def main() -> None:
    """Time every fleet size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", type=float, default=0.8, help="of the fluid optimum")
    parser.add_argument("--instances", default="8,32,100")
    options = parser.parse_args()
    warm_up()
    print("| instances | decision p50, us | p90 | p99 | digest p50, us | p99 | digest a token, us |")
    print("|---|---|---|---|---|---|---|")
    for size in map(int, options.instances.split(",")):
        _row(size, options.load)


def _row(size: int, load: float) -> None:
    setting = Setting.of(workload="azure2023-conv", slo="default", mode="co", instances=size)
    workload = setting.workload(load * setting.optimum_rps(), 0, duration_s=SPAN_S)
    fleet = VirtualFleet(workload, setting.named.profile, num_instances=size, num_records=16384)
    arrivals, digests = _timed(fleet.decider, "arrive"), _timed(fleet.decider, "digest")
    fleet.run()
    p50, p90, p99 = 1e6 * np.quantile(arrivals, (0.5, 0.9, 0.99))
    d50, d99 = 1e6 * np.quantile(digests, (0.5, 0.99))
    token = 1e6 * sum(digests) / float(workload.output_tokens.sum())
    print(f"| {size} | {p50:.1f} | {p90:.1f} | {p99:.1f} | {d50:.1f} | {d99:.1f} | {token:.2f} |", flush=True)


def _timed(owner: object, name: str) -> list[float]:
    """Time every call of a method; returns the list that they go into, seconds."""
    method, times = getattr(owner, name), []

    def call(*args: object) -> None:
        begin = time.perf_counter()
        method(*args)
        times.append(time.perf_counter() - begin)

    setattr(owner, name, call)
    return times


if __name__ == "__main__":
    main()
