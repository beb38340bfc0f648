"""`polyslo profile`: iteration-time profiles."""

from __future__ import annotations

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from polyslo.core.measured import residuals
from polyslo.profiles.library import NamedProfile, load_profile, shipped_profiles

TPOTS_MS = (20, 30, 50, 100)
CONTEXT_TOKENS = 1024


@click.group("profile")
def profile_group() -> None:
    """Iteration-time profiles: measured points and what follows from them."""


@profile_group.command("list")
def list_command() -> None:
    """List the profiles in the package."""
    table = Table("name", "model", "GPU", "TP", "engine", "KV tokens")
    for name in shipped_profiles():
        named = load_profile(name)
        facts = named.facts
        engine = f"{facts['engine']} {facts['engine_version']}"
        row = (name, facts["model"], facts["system"], str(facts["tensor_parallel"]), engine)
        table.add_row(*row, f"{named.profile.kv_capacity_tokens:,}")
    Console().print(table)


@profile_group.command("show")
@click.argument("name")
def show_command(name: str) -> None:
    """Show a profile's source, its fit, and what fits into the usual TPOTs."""
    named = load_profile(name)
    for key, value in named.facts.items():
        click.echo(f"{key}: {value}")
    table = Table("points", "number", "mean |error|", "worst", "bias", title="Tables against measured points")
    for kind, errors in residuals(named.profile, named.points).items():
        if len(errors):
            label = f"{kind} (held out)" if kind == "mixed" else kind
            row = (f"{np.abs(errors).mean():.1%}", f"{np.abs(errors).max():.1%}", f"{errors.mean():+.1%}")
            table.add_row(label, str(len(errors)), *row)
    Console().print(table)
    Console().print(_budgets(named))


@profile_group.command("plot")
@click.argument("name")
@click.option("--output", metavar="FILE", help="An .svg or .png file. [NAME.svg]")
def plot_command(name: str, output: str | None) -> None:
    """Draw decode and prefill times, measured points on the profile's lines."""
    from polyslo.report.profile_figure import save_profile_figure

    named = load_profile(name)
    target = output or f"{named.name}.svg"
    save_profile_figure(named, target)
    click.echo(f"wrote {target}", err=True)


def _budgets(named: NamedProfile) -> Table:
    profile = named.profile
    table = Table("iteration", f"largest batch at {CONTEXT_TOKENS} tokens", "largest chunk alone",
                  "largest chunk beside 64 decodes", title="What fits")  # fmt: skip
    for tpot_ms in TPOTS_MS:
        time_s = tpot_ms / 1e3
        alone = profile.largest_chunk(time_s, 0, 0, 0, 32_768)
        beside = profile.largest_chunk(time_s, 64, 64 * CONTEXT_TOKENS, 0, 32_768)
        batch = profile.largest_batch(time_s, CONTEXT_TOKENS)
        table.add_row(f"{tpot_ms} ms", str(batch), str(alone), str(beside))
    return table
