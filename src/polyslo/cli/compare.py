"""`polyslo compare`: policies x rates x seeds on one workload."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.text import Text

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
from polyslo.cli.progress import progress_bar
from polyslo.report.comparison_page import comparison_page
from polyslo.report.data import to_json
from polyslo.report.table import comparison_table
from polyslo.report.verdict import headline
from polyslo.sim.compare import DEFAULT_POLICIES, compare, default_rates


@click.command("compare")
@setting_options
@instances_option
@rate_options
@instead_option("--at", "it reports goodput at 0.99 and at 0.90: use `polyslo goodput --at` for another attainment")
@policies_option(",".join(DEFAULT_POLICIES))
@trial_options
@html_option
def compare_command(json_file: str | None, html_file: str | None, **options: Any) -> None:
    """Compare policies on one workload: attainment, goodput, instance-seconds.

    A policy is a name, `name:option=value` (chunk=TOKENS, relegate=on|off), or `module:function` of your own.
    """
    setting = make_setting(options)
    rates = parse_rates(options, setting)
    show_notices(setting, max(rates or default_rates(setting)), options["duration_s"])
    with progress_bar("simulating") as progress:
        comparison = compare(setting, rates_rps=rates, progress=progress, **options)
    show_extrapolations(setting, (run.largest for run in comparison.runs))
    write_file(json_file, lambda: to_json(comparison))
    write_file(html_file, lambda: comparison_page(comparison))
    console = Console()
    console.print(comparison_table(comparison))
    console.print(Text(f"\n{headline(comparison)}"))
