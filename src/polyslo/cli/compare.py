"""`polyslo compare`: policies x rates x seeds on one workload."""

from __future__ import annotations

from typing import Any

import click

from polyslo.cli.options import make_setting, parse_rates, rate_options, setting_options, write_file
from polyslo.cli.progress import progress_bar, results_console
from polyslo.report.comparison_page import comparison_page
from polyslo.report.data import to_json
from polyslo.report.table import comparison_table
from polyslo.report.verdict import headline
from polyslo.sim.compare import DEFAULT_POLICIES, compare


@click.command("compare")
@setting_options
@rate_options
@click.option("--policies", metavar="A,B,...", default=",".join(DEFAULT_POLICIES), show_default=True)
@click.option("--html", "html_file", metavar="FILE", help="Write one self-contained page with figures.")
def compare_command(
    policies: str, json_file: str | None, html_file: str | None, seeds: int, duration_s: float, **options: Any
) -> None:
    """Compare policies on one workload: attainment, goodput, instance-seconds.

    A policy is a name, `name:option=value` (chunk=TOKENS, relegate=on|off), or `module:function` of your own.
    """
    setting = make_setting(options)
    rates = parse_rates(options["rates"], options["scale"], setting)
    with progress_bar("simulating") as progress:
        comparison = compare(
            setting,
            rates_rps=rates,
            policies=split_policies(policies),
            seeds=seeds,
            duration_s=duration_s,
            progress=progress,
        )
    console = results_console()
    console.print(comparison_table(comparison))
    console.print(headline(comparison))
    write_file(json_file, lambda: to_json(comparison))
    write_file(html_file, lambda: comparison_page(comparison))


def split_policies(text: str) -> list[str]:
    """Split a list of policies at commas; an option's value goes on with its policy (`chunk:a=1,b=2`)."""
    found: list[str] = []
    for part in filter(None, text.split(",")):
        if found and "=" in part and ":" not in part:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found
