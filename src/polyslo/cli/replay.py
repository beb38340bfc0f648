"""`polyslo replay`: a gateway's journal decided again, or simulated under other policies."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from polyslo.cli.options import html_option, split_policies
from polyslo.cli.output import output_option, write_file
from polyslo.cli.progress import progress_bar
from polyslo.cli.replay_table import replay_table
from polyslo.errors import ConfigError, InputError
from polyslo.gateway.journal.reader import JournalReader, open_journals
from polyslo.gateway.journal.replay import Replayed, replay
from polyslo.gateway.journal.requests import RequestsSeen
from polyslo.gateway.journal.what_if import fidelity, what_if
from polyslo.gateway.warmup import warm_up
from polyslo.report.comparison_page import comparison_page
from polyslo.report.data import to_json
from polyslo.report.table import comparison_table
from polyslo.report.verdict import headline
from polyslo.sim.warmup import warm_up as warm_up_simulator


@click.command("replay")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--policy", "policies", metavar="A,B,...", callback=split_policies, help="Simulate what would have been.")
@click.option(
    "--dynamic-chunking/--constant-chunk",
    default=None,
    help="With --policy: engines that size their chunks by SLOs, or not. [as they did]",
)
@output_option("--json", "json_file", help="With --policy: write the results as JSON.")
@html_option
def replay_command(
    files: Sequence[str], policies: list[str] | None, json_file: str | None, html_file: str | None, **options: Any
) -> None:
    """Make every decision of a journal again and tell whether all are the same (else exit code 1).

    With --policy also simulate the journal's requests under other policies. FILEs are a journal's, in any order.
    """
    if policies is None and (json_file or html_file or options["dynamic_chunking"] is not None):
        raise ConfigError("--json, --html and --dynamic-chunking are for a simulation; name a --policy")
    journals = open_journals(files)
    for journal in journals:
        _show(journal)
    if policies is None:
        _replay(journals)
    else:
        _simulate(journals, policies, json_file, html_file, **options)
    damages = [journal.damage for journal in journals if journal.damage is not None]
    if damages:
        raise InputError(damages[0])


def _replay(journals: Sequence[JournalReader]) -> None:
    warm_up()
    found, seen = Replayed(), RequestsSeen()
    with progress_bar("replaying") as progress:
        for journal in journals:
            replay(journal, found, seen, progress=progress)
    for journal in journals:
        _show(journal)
    if seen.num_from_before:
        count = f"{seen.num_from_before:,} requests that ended here had arrived before"
        click.echo(f"notice: {journals[0].path}: {count}; give earlier files to see them", err=True)
    Console().print(replay_table(journals[0].head, found, seen, journals[0].state["tpots_s"].tolist()))
    if found.difference is not None:
        click.echo(f"\nDIFFERENT: {found.difference}")
        sys.exit(1)
    click.echo(f"\nsame: {found.num_inputs:,} inputs led to the same {found.num_decisions:,} decisions")


def _simulate(
    journals: Sequence[JournalReader], policies: Sequence[str], json_file: str | None, html_file: str | None,
    dynamic_chunking: bool | None,
) -> None:  # fmt: skip
    warm_up()
    warm_up_simulator()
    with progress_bar("simulating") as progress:
        comparison = what_if(journals, policies, dynamic_chunking=dynamic_chunking, progress=progress)
    for journal in journals:
        _show(journal)
    write_file(json_file, lambda: to_json(comparison))
    write_file(html_file, lambda: comparison_page(comparison))
    console = Console()
    console.print(comparison_table(comparison))
    console.print(Text(f"\n{fidelity(comparison)}\n{headline(comparison)}"))
    for note in comparison.notes:
        click.echo(f"notice: {note}", err=True)


def _show(journal: JournalReader) -> None:
    """Say on stderr what is to be known of a file, each thing once."""
    while journal.notices:
        click.echo(f"notice: {journal.path}: {journal.notices.pop(0)}", err=True)
