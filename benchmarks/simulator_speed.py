"""Print the simulator's speed: requests and iterations per second of one core, medians of several runs."""

from __future__ import annotations

import statistics
import time

from polyslo.sim.fleet import PolicySpec
from polyslo.sim.run import build_world, run_world
from polyslo.sim.setting import Setting
from polyslo.sim.warmup import warm_up

CASES = (("polyserve", 20, 60_000), ("minimal", 20, 60_000), ("polyserve", 100, 60_000), ("minimal", 100, 60_000))
RUNS = 3


def main() -> None:
    """Time the event loop alone (drawing the workload and allocating are not in it)."""
    warm_up()
    print("policy      instances  requests  requests/s  iterations/s")
    for name, instances, count in CASES:
        setting = Setting.of(instances=instances)
        rate = 0.8 * setting.optimum_rps()
        workload = setting.workload(rate, 0, duration_s=count / rate)
        took_s, iterations = [], 0
        for _ in range(RUNS):
            world = build_world(workload, setting.named.profile, PolicySpec.parse(name), setting.config)
            began_s = time.perf_counter()
            run_world(world)
            took_s.append(time.perf_counter() - began_s)
            iterations = int(world.clock["num_iterations"][0])
        median_s = statistics.median(took_s)
        print(f"{name:10s}  {instances:9d}  {count:8d}  {count / median_s:10,.0f}  {iterations / median_s:12,.0f}")


if __name__ == "__main__":
    main()
