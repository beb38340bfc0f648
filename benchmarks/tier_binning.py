"""Print docs/tiers.md's table as Markdown: polyserve's goodput with learned tiers, and with bins of equal counts.

python benchmarks/tier_binning.py [--modes co,pd] [--workloads azure2023-conv,sharegpt] [--instances 20] [--seeds 2]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from polyslo.sim.goodput import goodput
from polyslo.sim.setting import Setting
from polyslo.workload.slo import AUTO

LEARNED = (AUTO, 1, 2, 3, 4, 8)
EQUAL_COUNTS = (2, 4, 8)


def main() -> None:
    """Bisect for each way to make tiers; one row each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slo", default="continuous")
    parser.add_argument("--workloads", default="azure2023-conv,sharegpt")
    parser.add_argument("--modes", default="co")
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--target", type=float, default=0.99)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--duration", type=float, default=120.0)
    options = parser.parse_args()
    print(
        f"| mode | workload | tiers | TPOTs, ms | fluid optimum with them, rps | polyserve at {options.target:g}, rps |"
    )
    print("|---|---|---|---|---|---|")
    for mode in options.modes.split(","):
        for workload in options.workloads.split(","):
            base = Setting.of(slo=options.slo, workload=workload, mode=mode, instances=options.instances)
            for name, setting in variants(base):
                (found,) = goodput(setting, target=options.target, seeds=options.seeds, duration_s=options.duration)
                print(row(name, setting, found.rate_rps), flush=True)


def variants(base: Setting) -> Iterator[tuple[str, Setting]]:
    """Return the setting with tiers made in each of the ways, with a name."""
    for learn in LEARNED:
        yield f"learned, {learn}", base.with_learned_tiers(learn)
    tpots_s, shares = base.mix.requested_tpots()
    rising = np.argsort(tpots_s, kind="stable")
    below = np.cumsum(shares[rising]) - shares[rising]
    for count in EQUAL_COUNTS:
        starts = np.searchsorted(below, np.arange(count) / count - 1e-9)
        mix = base.mix.with_tiers(tpots_s[rising][starts].tolist())
        yield f"equal counts, {count}", replace(base, mix=mix)


def row(name: str, setting: Setting, rate_rps: float) -> str:
    """Return one row of the table."""
    tpots = " ".join(f"{tpot_s * 1e3:g}" for tpot_s in setting.mix.tpots_s)
    cells = [setting.config.mode.upper(), setting.name, name, tpots, f"{setting.tiers_optimum_rps():.0f}"]
    return "| " + " | ".join([*cells, f"{rate_rps:.0f}"]) + " |"


if __name__ == "__main__":
    main()
