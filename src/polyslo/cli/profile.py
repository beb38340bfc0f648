"""`polyslo profile`: iteration-time profiles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Column, Table

from polyslo.cli.output import check_writable, output_option
from polyslo.cli.profile_measure import measure_command
from polyslo.cli.profile_torch import torch_command
from polyslo.core.measured import residuals
from polyslo.errors import InputError
from polyslo.profiles.gpus import GPUS
from polyslo.profiles.library import NamedProfile, estimate, load_profile, profile_text, shipped_profiles
from polyslo.profiles.roofline import DTYPES, SYNTAX, Roofline
from polyslo.profiles.shapes import MODELS
from polyslo.report.palette import DARK, LIGHT

TPOTS_MS = (20, 30, 50, 100)
CONTEXT_TOKENS = 1024
THEMES = {theme.name: theme for theme in (LIGHT, DARK)}


@click.group("profile")
def profile_group() -> None:
    """Iteration-time profiles: measured or estimated points and what follows from them."""


@profile_group.command("list")
def list_command() -> None:
    """List the profiles in the package, and what can be estimated."""
    table = Table(Column("name", no_wrap=True), "model", "GPU", "TP", "engine", "KV tokens")
    for name in shipped_profiles():
        named = load_profile(name)
        facts = named.facts
        engine = f"{facts['engine']} {facts['engine_version']}"
        row = (name, facts["model"], facts["system"], str(facts["tensor_parallel"]), engine)
        table.add_row(*row, f"{named.profile.kv_capacity_tokens:,}")
    Console().print(table)
    click.echo(f"Estimates: {SYNTAX}, where MODEL is the path of a config.json or one of")
    click.echo(f"  {', '.join(MODELS)}\nand GPU one of\n  {', '.join(GPUS)}")


@profile_group.command("show")
@click.argument("name")
def show_command(name: str) -> None:
    """Show a profile's source, its fit, and what fits into the usual TPOTs."""
    show(load_profile(name))


@profile_group.command("roofline")
@click.argument("model")
@click.argument("gpu")
@click.option("--tp", "tensor_parallel", type=click.IntRange(min=1), default=1, show_default=True, help="GPUs.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Of the weights. [that of the published ones]")
@click.option("--output", metavar="FILE.json", help="Write the profile, for --profile FILE.json.")
def roofline_command(model: str, gpu: str, tensor_parallel: int, dtype: str | None, output: str | None) -> None:
    """Estimate a profile that nobody measured. MODEL is a name or the path of a config.json; `list` prints names."""
    roofline = Roofline.of(model, gpu, tensor_parallel=tensor_parallel, dtype=dtype)
    if output:
        _write(Path(output), profile_text(roofline.content()))
    show(estimate(roofline))


@profile_group.command("plot")
@click.argument("name")
@output_option("--output", help="An .svg or .png file. [NAME.svg]")
@click.option("--theme", type=click.Choice(list(THEMES)), default=LIGHT.name, show_default=True)
def plot_command(name: str, output: str | None, theme: str) -> None:
    """Draw decode and prefill times, the profile's points on its lines."""
    from polyslo.report.profile_figure import save_profile_figure

    named = load_profile(name)
    target = output or f"{named.name.replace('/', '-')}.svg"
    check_writable(target)
    save_profile_figure(named, target, THEMES[theme])
    click.echo(f"wrote {target}", err=True)


profile_group.add_command(measure_command)
profile_group.add_command(torch_command)


def show(named: NamedProfile) -> None:
    """Print a profile: its facts, its fit, and what fits into the usual TPOTs."""
    for key, value in named.facts.items():
        click.echo(f"{key}: {_told(value)}")
    click.echo(f"KV tokens: {named.profile.kv_capacity_tokens:,}")
    click.echo(f"points: {named.points.extent.text()}")
    if not named.is_estimate:
        Console().print(_fit(named))
    Console().print(_budgets(named))


def _told(value: Any) -> str:
    """Return a fact as a person reads it: what is nested, side by side."""
    if not isinstance(value, Mapping):
        return str(value)
    return "; ".join(f"{key}: {_told(inner)}" if isinstance(inner, Mapping) else f"{key} {inner}"
                     for key, inner in value.items())  # fmt: skip


def _write(path: Path, text: str) -> None:
    if path.suffix != ".json":
        raise InputError(f"{path}: a profile's file ends in .json; name it so")
    try:
        path.write_text(text)
    except OSError as error:
        raise InputError(f"{path}: can't be written, {error.strerror}; check the folder") from error
    click.echo(f"wrote {path}", err=True)


def _fit(named: NamedProfile) -> Table:
    table = Table("points", "number", "mean |error|", "worst", "bias", title="Tables against measured points")
    for kind, errors in residuals(named.profile, named.points).items():
        if len(errors):
            label = f"{kind} (held out)" if kind == "mixed" else kind
            row = (f"{np.abs(errors).mean():.1%}", f"{np.abs(errors).max():.1%}", f"{errors.mean():+.1%}")
            table.add_row(label, str(len(errors)), *row)
    return table


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
