"""`polyslo claims`: the whole evaluation, from tuning the baselines to the page with its figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import fmean

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from polyslo.claims.evaluation import evaluate
from polyslo.claims.numbers import finite_mean, ratio_text
from polyslo.claims.page import write_page
from polyslo.claims.ray_cluster import RayCluster
from polyslo.claims.results import Cell, Claims
from polyslo.claims.silicon import compare_with_silicon
from polyslo.claims.silicon_rows import find_sample, read_coverage
from polyslo.claims.silicon_section import silicon_markdown
from polyslo.claims.store import Store
from polyslo.claims.sweep import LocalProcesses, Progress, Sweep
from polyslo.cli.output import output_option, write_file
from polyslo.errors import InputError
from polyslo.report.data import plain
from polyslo.report.notation import percent_cell_text, rate_text
from polyslo.report.table import new_table
from polyslo.sim.warmup import warm_up

TRACES = Path("../shared/traces")


@click.command("claims")
@click.option(
    "--quick", is_flag=True, help="The same table with wide intervals, in minutes; nothing is ablated or disturbed."
)
@click.option("--finished", is_flag=True, help="Run no more ablations and disturbances; leave out what is not whole.")
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Where claims.md and its figures go. [docs; with --quick nowhere]",
)
@click.option(
    "--traces",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help=f"Traces with arrivals of their own. [{TRACES}, where it is there]",
)
@click.option(
    "--state",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".claims"),
    show_default=True,
    help="Where results are kept, so that a stopped sweep goes on.",
)
@click.option("--processes", metavar="N", type=click.IntRange(1, 1024), help="Runs at a time. [all cores]")
@click.option("--ray", "address", metavar="ADDRESS", help="Sweep on a Ray cluster instead (auto: the one found).")
@click.option(
    "--silicon",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="silicon_sample.csv of aiconfigurator-core. [the installed package's]",
)
@output_option("--json", "json_file", help="Write the results as JSON.")
def claims_command(
    quick: bool, finished: bool, out: Path | None, traces: Path | None, state: Path, processes: int | None,
    address: str | None, silicon: Path | None, json_file: str | None,
) -> None:  # fmt: skip
    """Reproduce the paper's claims and say where polyslo stands; every number of docs/claims.md comes from here."""
    store = Store(state)
    folder = out or (None if quick else _docs())
    warm_up()
    with closing(RayCluster(address) if address else LocalProcesses(processes)) as workers, _bars() as progress:
        traces = traces or (TRACES if TRACES.is_dir() and not quick else None)
        claims = evaluate(Sweep(store, workers, progress), quick=quick, traces=traces, finished=finished)
    write_file(json_file, lambda: json.dumps(plain(claims), indent=1))
    if folder is not None:
        write_page(claims, None if quick and not silicon else _silicon(silicon), folder)
        click.echo(f"wrote {folder / 'claims.md'}", err=True)
    console = Console()
    console.print(f"{claims.num_instances} instances of {claims.profile}")
    for table in _tables(claims):
        console.print("", table, sep="\n")


def _silicon(file: Path | None) -> str | None:
    """Return the section on real GPUs, where their measurements are at hand."""
    try:
        sample = file or find_sample()
    except InputError as error:
        click.echo(f"left out, the comparison with real GPUs: {error}", err=True)
        return None
    return silicon_markdown(compare_with_silicon(read_coverage(sample)))


def _docs() -> Path:
    folder = Path("docs")
    if not folder.is_dir():
        raise click.UsageError("there is no folder docs here; name one with --out")
    return folder


@contextmanager
def _bars() -> Iterator[Progress]:
    """Show a bar a stage, with the time left; nothing where stderr is not a terminal."""
    console = Console(stderr=True)
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times)
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield progress


def _tables(claims: Claims) -> Iterator[Table]:
    """Tabulate each mode at each target, narrow enough for 80 columns."""
    for mode in dict.fromkeys(cell.mode for cell in claims.cells):
        cells = [cell for cell in claims.cells if cell.mode == mode]
        for target in claims.targets:
            yield _table(f"{mode.upper()}, goodput at {target:.2f}, requests/s", cells, target)


def _table(title: str, cells: Sequence[Cell], target: float) -> Table:
    table = new_table(title)
    table.expand = True
    table.add_column("workload", no_wrap=True)
    for heading in ("fluid\noptimum", "polyserve", "of the\noptimum", "best\nbaseline", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, ratio=1)  # what is left
    for cell in cells:
        best = cell.best_baseline(target)
        table.add_row(
            cell.workload,
            rate_text(cell.optimum_rps),
            rate_text(cell.ours(target).rate_rps),
            percent_cell_text(cell.share(target)),
            rate_text(best.rate_rps),
            ratio_text(cell.ratio(target)),
            best.policy,
        )
    table.add_section()
    share = fmean(cell.share(target) for cell in cells)
    ratio = finite_mean([cell.ratio(target) for cell in cells])
    table.add_row("mean", "", "", percent_cell_text(share), "", ratio_text(ratio), "")
    return table
