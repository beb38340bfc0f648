"""`polyslo simulate`: one run with its timeline."""

from __future__ import annotations

from functools import partial
from typing import Any

import click
from rich.console import Console

from polyslo.cli.options import (
    html_option,
    instances_option,
    instead_option,
    make_setting,
    parse_rates,
    policies_option,
    rate_options,
    setting_options,
    show_extrapolations,
    show_notices,
    trial_options,
)
from polyslo.cli.output import write_file
from polyslo.errors import ConfigError
from polyslo.report.data import to_json
from polyslo.report.run_page import run_page
from polyslo.report.table import run_table
from polyslo.report.timeline import timeline_text
from polyslo.sim.compare import run_all
from polyslo.sim.fleet import PolicySpec
from polyslo.sim.warmup import warm_up

NUM_SAMPLES = 240
DEFAULT_SHARE = 0.8  # of the fluid optimum, when no rate is given


@click.command("simulate")
@setting_options
@instances_option
@rate_options
@instead_option("--at", "it shows one run as it is: use `polyslo goodput --at` for the rate that holds an attainment")
@policies_option("polyserve")
@trial_options
@html_option
def simulate_command(policies: list[str], json_file: str | None, html_file: str | None, **options: Any) -> None:
    """Simulate one run of one policy at one rate; --seeds K takes the K-th seed."""
    if len(policies) != 1:
        raise ConfigError(f"simulate runs one policy, got {len(policies)}; use `polyslo compare` for several")
    spec = PolicySpec.parse(policies[0])
    setting = make_setting(options)
    rates = parse_rates(options, setting) or [DEFAULT_SHARE * setting.full_rps()]
    if len(rates) != 1:
        raise ConfigError(f"simulate runs one rate, got {len(rates)}; use `polyslo compare` for several")
    seed, duration_s = options["seeds"] - 1, options["duration_s"]
    show_notices(setting, rates[0], duration_s)
    warm_up()
    # in a thread, so that Ctrl-C need not wait for compiled code
    ((run,),) = run_all([partial(setting.run, [spec], rates[0], seed, duration_s, NUM_SAMPLES)])
    show_extrapolations(setting, [run.largest])
    write_file(json_file, lambda: to_json(run))
    write_file(html_file, lambda: run_page(run))
    console = Console()
    console.print(run_table(run))
    click.echo(timeline_text(run, width=min(console.width, 120)))
