"""Print what one placement costs, by fleet size and number of tiers, on a fleet at work.

    python benchmarks/placement_cost.py [--load 0.8] [--instances 10,100,1000]

Each run is driven to its middle; then, at every arrival, the decision alone is timed (a call from Python into
compiled code, whose own cost is printed as `empty call`).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np

from polyslo.compiled import compiled
from polyslo.core.state import Fleet
from polyslo.policies.decide import on_arrival
from polyslo.policies.table import POLYSERVE
from polyslo.sim.fleet import PolicySpec
from polyslo.sim.loop import advance
from polyslo.sim.run import build_world
from polyslo.sim.setting import Setting
from polyslo.sim.warmup import warm_up
from polyslo.workload.slo import SloMix
from polyslo.workload.tpots import TpotValues

SPAN_S = 6.0  # of arrivals before the first one timed
TIMED = 4_000


def main() -> None:
    """Time every fleet size with 4 and 20 tiers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", type=float, default=0.8, help="of the fluid optimum")
    parser.add_argument("--instances", default="10,30,100,300,1000,3000,10000")
    options = parser.parse_args()
    warm_up()
    print("| instances | tiers | p50, us | p90, us | p99, us | mean, us | empty call, us |")
    print("|---|---|---|---|---|---|---|")
    for num_tiers in (4, 20):
        for instances in map(int, options.instances.split(",")):
            times_us, empty_us = time_placements(instances, num_tiers, options.load)
            p50, p90, p99 = np.quantile(times_us, [0.5, 0.9, 0.99])
            print(f"| {instances:,} | {num_tiers} | {p50:.2f} | {p90:.2f} | {p99:.2f} | {times_us.mean():.2f} "
                  f"| {empty_us:.2f} |", flush=True)  # fmt: skip


def time_placements(instances: int, num_tiers: int, load: float) -> tuple[np.ndarray, float]:
    """Return microseconds of `TIMED` decisions, and of a call that does nothing."""
    setting = Setting.of(instances=instances)
    if num_tiers != len(setting.mix.tpots_s):
        setting = replace(setting, mix=spread_mix(setting.mix, num_tiers))
    rate = load * setting.optimum_rps()
    workload = setting.workload(rate, 0, duration_s=SPAN_S + 2 * TIMED / rate)
    world = build_world(workload, setting.named.profile, PolicySpec.parse("polyserve"), setting.config)
    clock, fleet = world.clock, world.fleet.handle
    times_us = []
    for r in range(len(workload) - 2 * TIMED, len(workload) - TIMED):
        now_s = workload.arrival_s[r]
        clock["pause_s"] = np.nextafter(now_s, 0.0)
        advance(world.handle)
        clock["cursor"] = r + 1
        clock["now_s"] = now_s
        began = time.perf_counter_ns()
        on_arrival(POLYSERVE, fleet, r, now_s)
        times_us.append((time.perf_counter_ns() - began) / 1e3)
    empty_us = []
    for r in range(1_000):
        began = time.perf_counter_ns()
        nothing(POLYSERVE, fleet, r, 0.0)
        empty_us.append((time.perf_counter_ns() - began) / 1e3)
    return np.array(times_us[TIMED // 10 :]), float(np.median(empty_us))


@compiled
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
