"""`polyslo workload`: fitted workloads, and how to fit one."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Column, Table

from polyslo.cli.output import check_writable, output_option, write_file
from polyslo.workload import model_file
from polyslo.workload.model import WorkloadModel, load_model, shipped_models
from polyslo.workload.readers import read_trace


@click.group("workload")
def workload_group() -> None:
    """Fitted workloads: statistics of traces, small enough to ship."""


@workload_group.command("list")
def list_command() -> None:
    """List the workloads in the package."""
    table = Table(Column("name", no_wrap=True), "rate, rps", "input, mean", "output, mean", "source")
    for name in shipped_models():
        model = load_model(name)
        rate = f"{model.rate_rps:.3g}" if model.rate_rps else "-"
        table.add_row(name, rate, f"{model.mean_input_tokens:.0f}", f"{model.mean_output_tokens:.0f}", model.source)
    Console().print(table)


@workload_group.command("fit")
@click.argument("trace")
@click.option("--format", "format_name", help="The trace's format; told from its content when not given.")
@output_option("--output", help="Where to write the model. [TRACE's name with .model.json]")
def fit_command(trace: str, format_name: str | None, output: str | None) -> None:
    """Turn a trace into a small model file of lengths, arrivals and their correlation."""
    target = output or f"{trace.rsplit('.', 1)[0]}.model.json"
    check_writable(target)
    read = read_trace(trace, format_name)
    for notice in read.notices:
        click.echo(f"notice: {notice}", err=True)
    model = WorkloadModel.fit(read)
    write_file(target, lambda: model_file.dump(model))
    click.echo(f"{len(read):,} requests, input {model.mean_input_tokens:.0f} and output "
               f"{model.mean_output_tokens:.0f} tokens on average")  # fmt: skip
