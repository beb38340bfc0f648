"""Print the simulator's speed on one core: iterations, requests, the large fleet. Medians of several runs.

    python benchmarks/simulator_speed.py [--large]

Only the event loop is timed (drawing the workload and allocating are not). `--large` adds 1,000 instances with
1,000,000 requests, once, and the process's peak memory.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time

import numpy as np

from polyslo.profiles.library import DEFAULT_PROFILE, load_profile
from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.run import build_world, run_world
from polyslo.sim.setting import Setting
from polyslo.sim.warmup import warm_up
from polyslo.workload.workload import Workload

RUNS = 3
ENGINES, BATCH, OUTPUT_TOKENS = 20, 100, 4_000
CASES = (("polyserve", 20, 60_000), ("minimal", 20, 60_000), ("polyserve", 100, 60_000), ("minimal", 100, 60_000))


def main() -> None:
    """Time the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    warm_up()
    print("| case | requests | requests/s | iterations/s |")
    print("|---|---|---|---|")
    time_engines()
    for name, instances, count in CASES:
        time_policy(name, instances, count, RUNS)
    if options.large:
        for name in ("polyserve", "minimal"):
            time_policy(name, 1_000, 1_000_000, 1)
        print(f"\npeak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


def time_engines() -> None:
    """Engines that decode batches of 100 to their end, with nothing to decide."""
    count = ENGINES * BATCH
    workload = Workload(
        name="decodes",
        arrival_s=np.linspace(0.0, 1e-3, count),
        input_tokens=np.full(count, 16, np.int32),
        output_tokens=np.full(count, OUTPUT_TOKENS, np.int32),
        ttft_s=np.full(count, 1.0),
        tpot_s=np.full(count, 0.1),
        tpots_s=(0.1,),
        tier=np.zeros(count, np.int32),
        num_ttft_raised=0,
    )
    config = FleetConfig(num_instances=ENGINES, lengths="known")
    print_row(f"engines alone, batch {BATCH}", workload, Setting.of(fleet=config), "round-robin", RUNS)


def time_policy(name: str, instances: int, count: int, runs: int) -> None:
    """The default workload at 80% of the fluid optimum."""
    setting = Setting.of(instances=instances)
    rate = 0.8 * setting.optimum_rps()
    workload = setting.workload(rate, 0, duration_s=count / rate)
    print_row(f"{name}, {instances:,} instances", workload, setting, name, runs)


def print_row(label: str, workload: Workload, setting: Setting, policy: str, runs: int) -> None:
    """Run and print one row of the table."""
    profile, took_s, iterations = load_profile(DEFAULT_PROFILE).profile, [], 0
    for _ in range(runs):
        world = build_world(workload, profile, PolicySpec.parse(policy), setting.config)
        began_s = time.process_time()
        run_world(world)
        took_s.append(time.process_time() - began_s)
        iterations = int(world.clock["num_iterations"][0])
    median_s = statistics.median(took_s)
    print(
        f"| {label} | {len(workload):,} | {len(workload) / median_s:,.0f} | {iterations / median_s:,.0f} |", flush=True
    )


if __name__ == "__main__":
    main()
