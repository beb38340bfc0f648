"""`polyslo goodput`: the highest rate at an attainment, by bisection."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from polyslo.cli.compare import split_policies
from polyslo.cli.options import make_setting, setting_options, write_file
from polyslo.cli.progress import progress_bar
from polyslo.sim.goodput import goodput


@click.command("goodput")
@setting_options
@click.option("--policies", metavar="A,B,...", default="polyserve", show_default=True)
@click.option("--at", "target", type=float, default=0.99, show_default=True, help="Attainment to hold.")
def goodput_command(
    policies: str, target: float, json_file: str | None, seeds: int, duration_s: float, **options: Any
) -> None:
    """Find the highest rate at which attainment holds, with its 95% confidence interval over seeds."""
    setting = make_setting(options)
    with progress_bar("bisecting") as progress:
        results = goodput(
            setting,
            policies=split_policies(policies),
            target=target,
            seeds=seeds,
            duration_s=duration_s,
            progress=progress,
        )
    table = Table(title=f"Goodput at {target:g}: {setting.name}, {setting.config.num_instances} instances")
    for heading in ("policy", "requests/s", "95% interval", "of the fluid optimum"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for r in results:
        share = f"{r.rate_rps / r.optimum_rps:.1%}" if r.optimum_rps else "-"
        table.add_row(r.policy, f"{r.rate_rps:.1f}", f"{r.low_rps:.1f} to {r.high_rps:.1f}", share)
    Console().print(table)
    write_file(json_file, lambda: json.dumps([asdict(r) for r in results], indent=1))
