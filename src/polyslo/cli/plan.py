"""`polyslo plan`: how many instances, and what each tier costs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from polyslo.cli.compare import split_policies
from polyslo.cli.options import make_setting, parse_rates, rate_options, setting_options, write_file
from polyslo.cli.progress import progress_bar
from polyslo.errors import ConfigError
from polyslo.sim.plan import PlanResult, plan


@click.command("plan")
@setting_options
@rate_options
@click.option("--policies", metavar="A,B,...", default="polyserve,chunk", show_default=True)
@click.option("--at", "target", type=float, default=0.99, show_default=True, help="Attainment to hold.")
def plan_command(
    policies: str, target: float, json_file: str | None, seeds: int, duration_s: float, **options: Any
) -> None:
    """Find the smallest fleet that holds an attainment; --instances is ignored."""
    setting = make_setting(options)
    rates = parse_rates(options["rates"], options["scale"], setting) or [setting.source_rate_rps]
    if len(rates) != 1:
        raise ConfigError(f"plan takes one rate, got {len(rates)}; call it once for each")
    with progress_bar("planning") as progress:
        results = plan(
            setting,
            rate_rps=rates[0],
            policies=split_policies(policies),
            target=target,
            seeds=seeds,
            duration_s=duration_s,
            progress=progress,
        )
    Console().print(_table(results, setting.name))
    write_file(json_file, lambda: json.dumps([asdict(r) for r in results], indent=1))


def _table(results: list[PlanResult], workload: str) -> Table:
    first = results[0]
    table = Table(title=f"{workload} at {first.rate_rps:.4g} requests/s, attainment {first.target:g}")
    table.add_column("policy")
    table.add_column("instances", justify="right")
    table.add_column("fluid need", justify="right")
    for tier in first.runs[0].tiers:
        table.add_column(f"{tier.tpot_ms:g} ms: owned, cost", justify="right")
    for r in results:
        cells = [f"{r.mean_instances(k):.1f}, {r.cost(k):.1f}" for k in range(len(r.runs[0].tiers))]
        if sum(r.runs[0].tiers[k].instance_seconds > 0 for k in range(len(cells))) == 1 and len(cells) > 1:
            cells = ["shared"] * len(cells)  # a policy without tiers owns all instances together
        table.add_row(r.policy, str(r.num_instances), f"{r.fluid_instances:.1f}", *cells)
    table.caption = "owned: instances on average; cost: instance-seconds per 1,000 attained requests"
    return table
