"""Print the README's goodput table: polyserve against the best baseline, its constant chunk tuned, as Markdown.

python benchmarks/goodput_table.py [--seeds 2] [--duration 150]
"""

from __future__ import annotations

import argparse

import polyslo

WORKLOADS = ("azure2023-conv", "sharegpt", "azure2023-code")
BASELINES = ("static-tiers", "slo-least-load", "slo-least-load:chunk=1024", "lmetric", "lmetric:chunk=1024",
             "chunk", "chunk:chunk=1024", "minimal")  # fmt: skip


def main() -> None:
    """Compare on each workload and mode; one row each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--duration", type=float, default=150.0)
    options = parser.parse_args()
    print("| mode | workload | fluid optimum, rps | polyserve at 0.99 | best baseline | ratio "
          "| polyserve at 0.90 | best baseline | ratio |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for mode in ("co", "pd"):
        for workload in WORKLOADS:
            print(row(workload, mode, options.seeds, options.duration), flush=True)


def row(workload: str, mode: str, seeds: int, duration_s: float) -> str:
    """Return one row of the table."""
    comparison = polyslo.compare(
        workload=workload, mode=mode, seeds=seeds, duration_s=duration_s, policies=("polyserve", *BASELINES)
    )
    cells = [mode.upper(), workload, f"{comparison.optimum_rps:.0f}"]
    for target in (0.99, 0.90):
        found = {g.policy: g for g in comparison.goodputs if g.target == target}
        ours = found.pop("polyserve")
        best = max(found.values(), key=lambda g: g.rate_rps)
        at_end = "≥ " if ours.is_lower_bound else ""
        ratio = f"{at_end}{ours.rate_rps / best.rate_rps:.2f}"
        cells += [f"{at_end}{ours.rate_rps:.0f}", f"{best.rate_rps:.0f} ({best.policy})", ratio]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
