"""`polyslo goodput`: the highest rate at an attainment, by bisection."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from polyslo.cli.options import (
    html_option,
    instances_option,
    instead_option,
    make_setting,
    policies_option,
    setting_options,
    show_extrapolations,
    show_notices,
    target_option,
    trial_options,
)
from polyslo.cli.output import write_file
from polyslo.cli.progress import progress_bar
from polyslo.report.data import plain
from polyslo.report.goodput_page import goodput_page
from polyslo.report.notation import MISSING, goodput_text, percent_cell_text, rate_text
from polyslo.sim.goodput import as_comparison, goodput
from polyslo.sim.results import GoodputResult
from polyslo.sim.setting import Setting


@click.command("goodput")
@setting_options
@instances_option
@instead_option("--rates", "it looks for the rate itself: use `polyslo compare --rates` for rates of your own")
@instead_option("--scale", "it looks for the rate itself: use `polyslo compare --scale` for a rate of your own")
@policies_option("polyserve")
@target_option
@trial_options
@html_option
def goodput_command(json_file: str | None, html_file: str | None, **options: Any) -> None:
    """Find the highest rate at which attainment holds, with its 95% confidence interval over seeds."""
    setting = make_setting(options)
    show_notices(setting, setting.full_rps(), options["duration_s"])
    with progress_bar("bisecting") as progress:
        results = goodput(setting, progress=progress, **options)
    show_extrapolations(setting, (result.largest for result in results))
    write_file(json_file, lambda: json.dumps(plain(results), indent=1))
    write_file(html_file, lambda: goodput_page(as_comparison(setting, results, options["duration_s"])))
    Console().print(_table(results, setting))


def _table(results: list[GoodputResult], setting: Setting) -> Table:
    table = Table(title=f"Goodput at {results[0].target:g}: {setting.name}, {setting.config.num_instances} instances")
    for heading in ("policy", "requests/s", "95% interval", "of the fluid optimum"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for r in results:
        share = percent_cell_text(r.rate_rps / r.optimum_rps) if r.optimum_rps else MISSING
        several = len(r.per_seed_rps) > 1
        interval = f"{rate_text(r.low_rps)} to {rate_text(r.high_rps)}" if several else "none: one seed"
        table.add_row(r.policy, goodput_text(r), interval, share)
    return table
