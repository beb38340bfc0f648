"""Print what the gateway's decider costs: a decision at an arrival, and a digest of what streams showed.

    python benchmarks/live_decisions.py [--instances 8,32,100] [--load 0.8]

The decider stands before emulated engines in virtual time, as in the tests; only calls into it are timed, Python and
compiled code together, with the engine's taking of the request. A digest is one of all news of a step; its cost by
token is printed too. Times pass on the wall unless CPU is said: where both differ somebody else had the core, which
the last column tells of the slowest hundredth of decisions.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

try:
    from resource import RUSAGE_THREAD, getrusage
except ImportError:  # not Linux: whether the core was taken away is not known
    RUSAGE_THREAD, getrusage = 0, None

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
    print("| instances | decision p50, us | p90 | p99 | p99 CPU | digest p50, us | p99 | p99 CPU "
          "| digest a token, us | slowest 1% preempted |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for size in map(int, options.instances.split(",")):
        _row(size, options.load)


@dataclass
class Calls:
    """What calls of a method took, in seconds."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    preempted: list[bool] = field(default_factory=list)

    def quantiles_us(self, *shares: float) -> list[float]:
        """Return quantiles of the time on the wall."""
        return (1e6 * np.quantile(self.wall_s, shares)).tolist()

    @property
    def p99_cpu_us(self) -> float:
        """The 99th percentile of the CPU time."""
        return float(1e6 * np.quantile(self.cpu_s, 0.99))

    @property
    def preempted_ratio(self) -> float:
        """Of the slowest hundredth, how many had the core taken away."""
        slowest = np.array(self.wall_s) >= np.quantile(self.wall_s, 0.99)
        return float(np.array(self.preempted)[slowest].mean())


def _row(size: int, load: float) -> None:
    setting = Setting.of(workload="azure2023-conv", slo="default", mode="co", instances=size)
    workload = setting.workload(load * setting.optimum_rps(), 0, duration_s=SPAN_S)
    fleet = VirtualFleet(workload, setting.named.profile, num_instances=size, num_records=16384)
    arrivals, digests = _timed(fleet.decider, "arrive"), _timed(fleet.decider, "digest")
    fleet.run()
    p50, p90, p99 = arrivals.quantiles_us(0.5, 0.9, 0.99)
    d50, d99 = digests.quantiles_us(0.5, 0.99)
    token = 1e6 * sum(digests.cpu_s) / float(workload.output_tokens.sum())
    print(f"| {size} | {p50:.1f} | {p90:.1f} | {p99:.1f} | {arrivals.p99_cpu_us:.1f} | {d50:.1f} | {d99:.1f} "
          f"| {digests.p99_cpu_us:.1f} | {token:.2f} | {arrivals.preempted_ratio:.0%} |", flush=True)  # fmt: skip


def _timed(owner: object, name: str) -> Calls:
    """Time every call of a method."""
    method, calls = getattr(owner, name), Calls()

    def call(*args: object) -> None:
        before = _preemptions()
        begin, begin_cpu = time.perf_counter(), time.thread_time()
        method(*args)
        calls.cpu_s.append(time.thread_time() - begin_cpu)
        calls.wall_s.append(time.perf_counter() - begin)
        calls.preempted.append(_preemptions() > before)

    setattr(owner, name, call)
    return calls


def _preemptions() -> int:
    """Return how often this thread had the core taken away."""
    return 0 if getrusage is None else getrusage(RUSAGE_THREAD).ru_nivcsw


if __name__ == "__main__":
    main()
