"""`polyslo dashboards`: the Grafana dashboard and the Prometheus alert rules of the gateway, as files."""

from __future__ import annotations

from pathlib import Path

import click

from polyslo.errors import InputError
from polyslo.gateway.observability.dashboard import write_dashboards


@click.command("dashboards")
@click.option(
    "--out", "folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path), default=".",
    show_default=True, help="Where to write them; made where it is missing.",
)  # fmt: skip
def dashboards_command(folder: Path) -> None:
    """Write a Grafana dashboard and Prometheus alert rules for the gateway; docs/observability.md explains both."""
    try:
        written = write_dashboards(folder)
    except OSError as error:
        raise InputError(f"--out: {folder} can't be written, {error.strerror}; choose another folder") from error
    for path in written:
        click.echo(str(path))
