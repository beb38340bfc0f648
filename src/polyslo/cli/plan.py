"""`polyslo plan`: how many instances, and what each tier costs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from polyslo.cli.options import (
    html_option,
    instead_option,
    make_setting,
    parse_rates,
    policies_option,
    rate_options,
    setting_options,
    show_extrapolations,
    show_notices,
    target_option,
    trial_options,
)
from polyslo.cli.output import write_file
from polyslo.cli.progress import progress_bar
from polyslo.core.extent import Extent
from polyslo.errors import ConfigError
from polyslo.report.data import plain
from polyslo.report.notation import amount_text, rate_text, share_text, tier_name
from polyslo.report.plan_page import plan_page
from polyslo.sim.compare import run_notes, sentences
from polyslo.sim.plan import PlanResult, plan
from polyslo.sim.setting import Setting


@click.command("plan")
@setting_options
@rate_options
@instead_option("--instances", "it looks for the number itself: use `polyslo goodput --instances` for a fleet of yours")
@policies_option("polyserve,chunk")
@target_option
@trial_options
@html_option
def plan_command(json_file: str | None, html_file: str | None, **options: Any) -> None:
    """Find the smallest fleet that holds an attainment in every seed, and what each tier owns of it."""
    setting = make_setting(options)
    rates = parse_rates(options, setting) or [setting.source_rate_rps]
    if len(rates) != 1:
        raise ConfigError(f"plan takes one rate, got {len(rates)}; call it once for each")
    show_notices(setting, rates[0], options["duration_s"])
    with progress_bar("planning") as progress:
        results = plan(setting, rate_rps=rates[0], progress=progress, **options)
    largest = [run.largest for result in results for run in result.runs]
    show_extrapolations(setting, largest)
    write_file(json_file, lambda: json.dumps(plain(results), indent=1))
    write_file(html_file, lambda: plan_page(results, _notes(setting, rates[0], options["duration_s"], largest)))
    Console().print(_table(results, setting.name))


def _notes(setting: Setting, rate_rps: float, duration_s: float, largest: Iterable[Extent | None]) -> list[str]:
    return [*run_notes(setting, rate_rps, duration_s), *sentences(setting.extrapolations(largest))]


def _table(results: list[PlanResult], workload: str) -> Table:
    first = results[0]
    table = Table(
        title=f"{workload} at {rate_text(first.rate_rps)} requests/s, attainment {first.target:g}",
        caption=f"the fluid optimum needs {amount_text(first.fluid_instances)} instances\n"
        "tiers own instances on average; without any, tighter tiers serve\n"
        "attainment of all: the worst seed's\ncost: instance-seconds per 1,000 attained, of a tier its own",
        caption_justify="left",
    )
    table.add_column("policy")
    for heading in ("tier", "instances", "attainment", "cost"):
        table.add_column(heading, justify="right")
    for result in results:
        for row in _rows(result):
            table.add_row(*row)
        table.add_section()
    return table


def _rows(result: PlanResult) -> Iterator[tuple[str, ...]]:
    """Give the fleet a row, then each tier with what it owns of it."""
    size = str(result.num_instances)
    yield result.policy, "all", size, share_text(result.attainment), amount_text(result.cost())
    for k, tier in enumerate(result.runs[0].tiers):
        owned, cost = "any", ""
        if result.has_tiers:
            owned, cost = amount_text(result.mean_instances(k)), amount_text(result.tier_cost(k))
        yield "", tier_name(tier.tpot_ms), owned, share_text(result.tier_attainment(k)), cost
    if result.runs[0].mode == "pd":
        yield "", "prefill", amount_text(result.mean_prefill_instances()), "", ""
