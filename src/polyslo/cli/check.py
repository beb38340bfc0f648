"""`polyslo check`: what is wrong with a gateway's configuration, all of it, or what it comes to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import click

from polyslo.gateway.config.gateway import load_config
from polyslo.gateway.config.table import MistakenConfigError
from polyslo.gateway.explain import explain


@click.command("check")
@click.argument("file", metavar="CONFIG")
def check_command(file: str) -> None:
    """Check a gateway's configuration file: every mistake at once (exit code 2), or a summary."""
    try:
        explanation = explain(load_config(file))
    except MistakenConfigError as error:
        _fail(error.mistakes)
    for warning in explanation.warnings:
        click.echo(f"warning: {warning}", err=True)
    if explanation.mistakes:
        _fail(explanation.mistakes)
    for line in explanation.summary:
        click.echo(line)


def _fail(mistakes: Sequence[str]) -> NoReturn:
    for mistake in mistakes:
        click.echo(f"polyslo: {mistake}", err=True)
    raise SystemExit(2)
