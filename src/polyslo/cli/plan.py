"""`polyslo plan`: how many instances, and what each tier costs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from polyslo.cli.options import (
    make_setting,
    parse_rates,
    policies_option,
    rate_options,
    setting_options,
    show_notices,
    target_option,
    trial_options,
    write_file,
)
from polyslo.cli.progress import progress_bar
from polyslo.errors import ConfigError
from polyslo.sim.plan import PlanResult, plan


@click.command("plan")
@setting_options
@rate_options
@policies_option("polyserve,chunk")
@target_option
@trial_options
def plan_command(json_file: str | None, **options: Any) -> None:
    """Find the smallest fleet that holds an attainment; --instances is ignored."""
    setting = make_setting(options)
    rates = parse_rates(options, setting) or [setting.source_rate_rps]
    if len(rates) != 1:
        raise ConfigError(f"plan takes one rate, got {len(rates)}; call it once for each")
    show_notices(setting, rates[0], options["duration_s"])
    with progress_bar("planning") as progress:
        results = plan(setting, rate_rps=rates[0], progress=progress, **options)
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
