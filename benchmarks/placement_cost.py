"""Print what one placement costs, by fleet size and number of tiers, on a fleet at work.

    python benchmarks/placement_cost.py [--load 0.8] [--instances 10,100,1000]

Each run is driven to its middle; then, at every arrival, the decision alone is timed, where the simulator takes it:
inside compiled code, by a clock that is read there. Reading it twice in a row is printed as `clock`, and is part of
the times. A caller in Python pays a call on top of it (`call`); what a whole decision costs the gateway is
`live_decisions.py`.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from dataclasses import replace
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from polyslo.core.state import Fleet
from polyslo.policies.decide import on_arrival
from polyslo.policies.table import POLYSERVE
from polyslo.sim.fleet import PolicySpec
from polyslo.sim.loop import advance
from polyslo.sim.run import build_world
from polyslo.sim.setting import Setting
from polyslo.sim.warmup import warm_up
from polyslo.sim.world import World
from polyslo.workload.slo import SloMix
from polyslo.workload.tpots import TpotValues

SPAN_S = 6.0  # of arrivals before the first one timed
TIMED = 4_000

CLOCK_MONOTONIC = 1
clock_gettime: Any = ctypes.CDLL(None).clock_gettime
clock_gettime.argtypes = [ctypes.c_int, ctypes.c_void_p]
clock_gettime.restype = ctypes.c_int


def main() -> None:
    """Time every fleet size with 4 and 20 tiers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", type=float, default=0.8, help="of the fluid optimum")
    parser.add_argument("--instances", default="10,30,100,300,1000,3000,10000")
    options = parser.parse_args()
    warm_up()
    print("| instances | tiers | p50, us | p90, us | p99, us | mean, us | clock, us | call, us |")
    print("|---|---|---|---|---|---|---|---|")
    for num_tiers in (4, 20):
        for instances in map(int, options.instances.split(",")):
            times_us, clock_us, call_us = time_placements(instances, num_tiers, options.load)
            p50, p90, p99 = np.quantile(times_us, [0.5, 0.9, 0.99])
            print(f"| {instances:,} | {num_tiers} | {p50:.2f} | {p90:.2f} | {p99:.2f} | {times_us.mean():.2f} "
                  f"| {clock_us:.2f} | {call_us:.2f} |", flush=True)  # fmt: skip


def time_placements(instances: int, num_tiers: int, load: float) -> tuple[np.ndarray, float, float]:
    """Return microseconds of `TIMED` decisions, of two readings of the clock, and of a call that does nothing."""
    setting = Setting.of(instances=instances)
    if num_tiers != len(setting.mix.tpots_s):
        setting = replace(setting, mix=spread_mix(setting.mix, num_tiers))
    rate = load * setting.optimum_rps()
    workload = setting.workload(rate, 0, duration_s=SPAN_S + 2 * TIMED / rate)
    world = build_world(workload, setting.named.profile, PolicySpec.parse("polyserve"), setting.config)
    first = len(workload) - 2 * TIMED
    times_ns = np.zeros((2, TIMED), dtype=np.int64)
    decide_timed(world.handle, first, np.zeros((2, 2), dtype=np.int64), times_ns)
    call_us = []
    for r in range(1_000):
        began = time.perf_counter_ns()
        nothing(POLYSERVE, world.fleet.handle, r, 0.0)
        call_us.append((time.perf_counter_ns() - began) / 1e3)
    return times_ns[0, TIMED // 10 :] / 1e3, float(np.median(times_ns[1]) / 1e3), float(np.median(call_us))


@numba.njit(nogil=True)
def decide_timed(world: World, first: int, moment: npt.NDArray[np.int64], times_ns: npt.NDArray[np.int64]) -> None:
    """Run to each arrival from `first` on, decide, and write down what that took, and what the clock did.

    `moment` is where the clock writes: a row of (seconds, nanoseconds) for each reading.
    """
    clock, fleet = world.clock[0], world.fleet
    began, ended = moment[0].ctypes.data, moment[1].ctypes.data
    for k in range(times_ns.shape[1]):
        now_s = world.arrivals_s[first + k]
        clock.pause_s = np.nextafter(now_s, 0.0)
        advance(world)
        clock.cursor = first + k + 1
        clock.now_s = now_s
        clock_gettime(CLOCK_MONOTONIC, began)
        on_arrival(POLYSERVE, fleet, first + k, now_s)
        clock_gettime(CLOCK_MONOTONIC, ended)
        times_ns[0, k] = (moment[1, 0] - moment[0, 0]) * 1_000_000_000 + moment[1, 1] - moment[0, 1]
        clock_gettime(CLOCK_MONOTONIC, began)
        clock_gettime(CLOCK_MONOTONIC, ended)
        times_ns[1, k] = (moment[1, 0] - moment[0, 0]) * 1_000_000_000 + moment[1, 1] - moment[0, 1]


@numba.njit
def nothing(policy: int, fleet: Fleet, r: int, now_s: float) -> None:
    """Do nothing: what is left is the cost of the call."""


def spread_mix(mix: SloMix, num_tiers: int) -> SloMix:
    """Return a mix of as many equal tiers between 20 and 100 ms."""
    tpots_s = [float(t) for t in np.geomspace(0.02, 0.1, num_tiers).round(5)]
    entry = replace(mix.classes[0], share=1 / num_tiers)
    classes = tuple(replace(entry, name=f"tier {t}", tpot=TpotValues((t,))) for t in tpots_s)
    return replace(mix, classes=classes, tiers_s=tuple(tpots_s))


if __name__ == "__main__":
    main()
