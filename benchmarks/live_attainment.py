"""Print what a live fleet attains beside what the simulator says of the same requests, tier by tier.

    python benchmarks/live_attainment.py [--seconds 600] [--load 0.7] [--workload azure2023-code] [--speed 0.5]

Emulated engines and the gateway are processes of their own; requests come over HTTP, open loop, from this one. All
of it shares the machine: take a smaller --speed where the notes say that it was too busy. The simulator gets the same
requests, arrival by arrival and token by token, without noise, and engines without delay.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from pathlib import Path

import numpy as np
import uvloop

from polyslo.fleets.emulated_fleet import emulated_fleet
from polyslo.load import LoadPlan, LoadResult, Records, Target, load
from polyslo.sim.fleet import PolicySpec
from polyslo.sim.results import RunResult
from polyslo.sim.run import build_world, run_world, summarize
from polyslo.sim.setting import Setting
from polyslo.sim.world import World


def main() -> None:
    """Run live, then simulate, then print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="of arrivals, on the clock")
    parser.add_argument("--load", type=float, default=0.7, help="of the fluid optimum")
    parser.add_argument("--workload", default="azure2023-code")
    parser.add_argument("--instances", type=int, default=8)
    parser.add_argument("--speed", type=float, default=0.5, help="of the emulated engines")
    parser.add_argument("--policy", default="polyserve")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    setting = Setting.of(workload=options.workload, instances=options.instances)
    rate_rps = options.load * setting.optimum_rps()
    duration_s = options.seconds * options.speed
    plan = LoadPlan.of(setting.workload(rate_rps, options.seed, duration_s=duration_s), speed=options.speed)
    began_cpu_s = os.times()
    with (
        tempfile.TemporaryDirectory() as folder,
        emulated_fleet(Path(folder), options.policy, setting, options.speed) as fleet,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        records = Records(len(plan))
        live = runner.run(load(plan, Target((fleet.gateway,)), records=records))
        lag_s = fleet.mean_lag_s()
    policy = PolicySpec.parse(options.policy)
    world = build_world(plan.workload, setting.named.profile, policy, setting.config, seed=options.seed)
    run_world(world)
    simulated = summarize(world, plan.workload, policy, setting.config, seed=options.seed, profile_name="")
    used_s = os.times().user - began_cpu_s.user
    print(
        f"{options.workload}, {rate_rps:.1f} requests/s ({options.load:.0%} of the fluid optimum) on "
        f"{options.instances} instances at speed {options.speed:g}, {options.seconds:g} s of arrivals: "
        f"{live.total.num_requests} requests scored"
    )
    print_tiers(live, simulated)
    print_same(plan, records, world)
    print(
        f"iterations ended {1e3 * lag_s:.1f} ms late on average, requests were sent "
        f"{1e3 * live.generator.send_lag.p99_s:.1f} ms late at p99; the generator used {used_s:.0f} s of CPU"
        + ("; the machine was too busy to be exact" if live.generator_limited else "")
    )


def print_tiers(live: LoadResult, simulated: RunResult) -> None:
    """Print attainment, and the median first token, as a table."""
    print("| TPOT, ms | requests | live | simulated | TTFT p50 live, ms | simulated, ms |\n|---|---|---|---|---|---|")
    for tier, told in zip(live.tiers, simulated.tiers, strict=True):
        print(
            f"| {tier.tpot_ms:g} | {tier.num_requests:,} | {tier.attainment:.4f} | {told.attainment:.4f} "
            f"| {1e3 * tier.ttft.p50_s:.0f} | {1e3 * told.ttft_p50_s:.0f} |"
        )
    print(f"| all | {live.total.num_requests:,} | {live.attainment:.4f} | {simulated.attainment:.4f} | | |")


def print_same(plan: LoadPlan, records: Records, world: World) -> None:
    """Print how far the same request's first token is from the simulator's."""
    live_s = plan.speed * (records.first_token_s - plan.send_s)
    simulated_s = world.jobs["first_token_s"] - plan.workload.arrival_s
    both = plan.is_scored & (live_s > 0) & (simulated_s > 0)
    ratios = live_s[both] / simulated_s[both] - 1
    within = (np.abs(ratios) <= 0.1).mean()
    print(
        f"first tokens, live over simulated, {both.sum():,} requests one by one: median {np.median(ratios):+.1%}, "
        f"median distance {np.median(np.abs(ratios)):.1%}, within 10% {within:.0%}; "
        f"median distance {1e3 * np.median(np.abs(live_s[both] - simulated_s[both])):.0f} ms"
    )


if __name__ == "__main__":
    main()
