"""`polyslo simulate`: one run with its timeline."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from polyslo.cli.options import make_setting, parse_rates, rate_options, setting_options, write_file
from polyslo.errors import ConfigError
from polyslo.report.data import to_json
from polyslo.report.run_page import run_page
from polyslo.report.table import run_table
from polyslo.report.timeline import timeline_text
from polyslo.sim.fleet import PolicySpec
from polyslo.sim.run import simulate
from polyslo.sim.warmup import warm_up

NUM_SAMPLES = 240
DEFAULT_SHARE = 0.8  # of the fluid optimum, when no rate is given


@click.command("simulate")
@setting_options
@rate_options
@click.option("--policy", default="polyserve", show_default=True)
@click.option("--html", "html_file", metavar="FILE", help="Write one self-contained page with the timeline.")
def simulate_command(
    policy: str, json_file: str | None, html_file: str | None, seeds: int, duration_s: float, **options: Any
) -> None:
    """Simulate one run; --seeds K takes the K-th seed."""
    setting = make_setting(options)
    rates = parse_rates(options["rates"], options["scale"], setting) or [DEFAULT_SHARE * setting.full_rps()]
    if len(rates) != 1:
        raise ConfigError(f"simulate runs one rate, got {len(rates)}; use `polyslo compare` for several")
    spec = PolicySpec.parse(policy)
    warm_up()
    seed = seeds - 1
    workload = setting.workload(rates[0], seed, duration_s=duration_s)
    for notice in workload.notices:
        click.echo(f"notice: {notice}", err=True)
    run = simulate(
        workload,
        setting.named.profile,
        spec,
        setting.config,
        seed=seed,
        num_samples=NUM_SAMPLES,
        profile_name=setting.named.name,
    )
    console = Console()
    console.print(run_table(run))
    click.echo(timeline_text(run, width=min(console.width, 120)))
    write_file(json_file, lambda: to_json(run))
    write_file(html_file, lambda: run_page(run))
