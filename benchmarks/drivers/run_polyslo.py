"""Time polyslo from a trace's file to the scored result; started by `beside_simulators.py`.

    python run_polyslo.py TRACE.csv --instances 4 --runs 3 --option polyserve

Prints one line of JSON. Everything is compiled and loaded before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from importlib.metadata import version

import numpy as np

from polyslo.sim.fleet import PolicySpec
from polyslo.sim.run import build_world, run_world, summarize
from polyslo.sim.setting import Setting
from polyslo.sim.warmup import warm_up
from polyslo.sim.world import World
from polyslo.workload.readers import read_trace
from polyslo.workload.slo import lay


def main() -> None:
    """Run once untimed, then `--runs` times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("--instances", type=int, required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--option", default="polyserve", help="the policy")
    options = parser.parse_args()
    warm_up()
    setting, policy = Setting.of(instances=options.instances), PolicySpec.parse(options.option)
    world, _ = replay(options.trace, setting, policy)
    timed = [replay(options.trace, setting, policy)[1] for _ in range(options.runs)]
    jobs = world.jobs
    several = jobs["output_tokens"] > 1
    paces_s = (jobs["last_token_s"] - jobs["first_token_s"])[several] / (jobs["output_tokens"][several] - 1)
    print(
        json.dumps(
            {
                "version": version("polyslo"),
                "cpu_s": statistics.median(timed),
                "num_finished": int((jobs["last_token_s"] > 0).sum()),
                "num_steps": int(world.clock["num_iterations"][0]),
                "tpot_ms": float(1e3 * np.nanmean(paces_s)),
            }
        )
    )


def replay(path: str, setting: Setting, policy: PolicySpec) -> tuple[World, float]:
    """Read the trace, promise SLOs, simulate and score; return what is left and the CPU seconds it took."""
    began_s = time.process_time()
    trace, profile = read_trace(path), setting.named.profile
    workload = lay(trace, setting.mix, 0, profile.idle_ttft_s)
    world = build_world(workload, profile, policy, setting.config)
    run_world(world)
    summarize(world, workload, policy, setting.config, seed=0, profile_name=setting.named.name)
    return world, time.process_time() - began_s


if __name__ == "__main__":
    main()
