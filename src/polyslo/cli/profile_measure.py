"""`polyslo profile measure`: a profile of a live endpoint, or of an engine's log of its steps."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import uvloop
from rich.console import Console
from rich.table import Table

from polyslo.cli.options import Finite, all_options
from polyslo.cli.output import check_writable, output_option, write_file
from polyslo.cli.progress import progress_bar
from polyslo.errors import ConfigError
from polyslo.load.target import DEFAULT_VOCAB_SIZE
from polyslo.measure.document import measured_content
from polyslo.measure.endpoint import Endpoint, EndpointFacts, reject_longer
from polyslo.measure.held_out import error_facts, held_out_errors
from polyslo.measure.live import Measurement
from polyslo.measure.notebook import Notebook
from polyslo.measure.plan import MeasurePlan
from polyslo.measure.step_fit import fit_steps
from polyslo.measure.steps_file import read_steps
from polyslo.profiles.library import DEFAULT_PROFILE, NamedProfile, load_profile, parse_profile, profile_text
from polyslo.profiles.shapes import MODELS, find_shape

DEFAULT_MAX_CONTEXT = 32_768
Errors = dict[str, npt.NDArray[np.float64]]
STATE_SUFFIX = ".measuring"

fact_options = all_options(
    click.option("--shape", metavar="MODEL|config.json", help="Tells the KV bytes of a token. [by the model's name]"),
    click.option("--kv-bytes-per-token", metavar="BYTES", type=Finite(0, min_open=True)),
    click.option("--kv-capacity-tokens", metavar="TOKENS", type=click.IntRange(16), help="[what the engine says]"),
    click.option("--system", metavar="TEXT", default="unknown", show_default=True, help="The GPU, for the record."),
    click.option("--tp", "tensor_parallel", metavar="N", type=click.IntRange(1), default=1, show_default=True),
    click.option("--conditions", metavar="TEXT", help="Anything else for the record: clocks, flags, driver."),
)
grid_options = all_options(
    click.option("--max-decodes", metavar="N", type=click.IntRange(2, 4096), default=256, show_default=True,
                 help="Largest batch."),
    click.option("--max-context", metavar="TOKENS", type=click.IntRange(512),
                 help=f"Longest prompt and output. [what the endpoint takes, at most {DEFAULT_MAX_CONTEXT:,}]"),
    click.option("--chunk-tokens", metavar="TOKENS", type=click.IntRange(16, 32_768),
                 help="Tokens of an iteration (vLLM: --max-num-batched-tokens, SGLang: --chunked-prefill-size). "
                      "[found out]"),
    click.option("--step-count", "num_steps", metavar="N", type=click.IntRange(8, 10_000), default=32,
                 show_default=True, help="Iterations at each batch."),
    click.option("--repeats", "num_repeats", metavar="N", type=click.IntRange(1, 1000), default=5, show_default=True,
                 help="Of each prompt."),
)  # fmt: skip


@click.command("measure")
@click.argument("url", required=False)
@click.option("--steps", "steps_file", metavar="FILE", help="Fit an engine's log of its steps (JSON lines) instead.")
@click.option(
    "--prior",
    metavar="NAME|FILE|roofline:MODEL:GPU",
    default=DEFAULT_PROFILE,
    show_default=True,
    help="With --steps: what decides where the log says nothing, scaled to the log.",
)
@output_option("--output", help="The profile, a .json file. [MODEL.json]")
@output_option("--plot", "plot_file", help="Draw it too, a .svg or .png file.")
@click.option("--model", metavar="NAME", help="[what the endpoint lists]")
@click.option("--api-key", metavar="KEY", envvar="POLYSLO_API_KEY")
@click.option("--vocab", "vocab_size", metavar="N", type=click.IntRange(18), default=DEFAULT_VOCAB_SIZE,
              show_default=True, help="Token ids of prompts are below it.")  # fmt: skip
@click.option("--speed", metavar="X", type=Finite(1e-3, 1e3), default=1.0, show_default=True,
              help="Of an emulated engine: times are scaled back by it.")  # fmt: skip
@click.option("--restart", is_flag=True, help="Measure anew; without it an interrupted measurement goes on.")
@fact_options
@grid_options
def measure_command(
    url: str | None, steps_file: str | None, prior: str, output: str | None, plot_file: str | None, **options: Any
) -> None:
    """Measure the profile of an engine that nobody else uses: a live endpoint by its URL, or its own log of steps.

    From outside: batches of known size and context, and prompts beside one decode; iteration times are the gaps
    between tokens. The engine must keep a constant chunk. Ctrl-C and start again: it goes on where it was.
    """
    if (url is None) == (steps_file is None):
        raise ConfigError("profile measure: give an endpoint's URL or --steps FILE, one of the two")
    if steps_file is not None:
        finished = output or f"{Path(steps_file).stem}.json"
        check_writable(finished)
        content, errors = _of_steps(steps_file, prior, options)
    else:
        assert url is not None
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            content, finished = runner.run(_of_endpoint(url, output, options))
        errors = held_out_errors(parse_profile(content, "", where=finished))
    finish(content, errors, finished, plot_file)


async def _of_endpoint(url: str, output: str | None, options: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Measure an endpoint; return the profile's content and the file for it."""
    longest = options["max_context"] or DEFAULT_MAX_CONTEXT
    endpoint = Endpoint(url, api_key=options["api_key"], vocab_size=options["vocab_size"], longest_tokens=longest)
    try:
        facts = await endpoint.ask(options["model"])
        if options["max_context"]:
            reject_longer(longest, facts.max_context_tokens)
        longest = min(longest, facts.max_context_tokens or longest)
        content = _facts(facts.model, options, facts)
        plan = MeasurePlan(
            max_context_tokens=longest,
            kv_capacity_tokens=content["kv_capacity_tokens"],
            **{name: options[name] for name in ("max_decodes", "num_steps", "num_repeats", "chunk_tokens")},
        )
        file = output or f"{facts.model.split('/')[-1]}.json"
        check_writable(file)
        head = {"url": url, "model": facts.model, "speed": options["speed"], **_plan_facts(plan)}
        notebook = Notebook(Path(file + STATE_SUFFIX), head, restart=options["restart"])
        with progress_bar("measuring") as progress:
            measurement = Measurement(endpoint, plan, notebook, lambda done, total: progress(int(done), int(total)))
            await measurement.run()
    finally:
        await endpoint.close()
    for warning in measurement.warnings:
        click.echo(f"warning: {warning}", err=True)
    content["chunk_tokens"] = notebook.done.get("chunk", options["chunk_tokens"])
    return measured_content(notebook.done, content, speed=options["speed"]), file


def _of_steps(file: str, prior: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], Errors]:
    """Fit a log of steps; return the profile's content and its errors on steps that it did not see."""
    steps = read_steps(file)
    facts = _facts(options["model"] or Path(file).stem, options, None)
    fit = fit_steps(steps, load_profile(prior).profile)
    for warning in fit.warnings:
        click.echo(f"warning: {warning}", err=True)
    source = f"fitted to {len(steps):,} steps of an engine's own log, prior {prior}; its host time is in them"
    return {**facts, "source": source, **fit.content}, {"steps, a fifth of the time held out": fit.held_out_errors}


def _facts(model: str, options: Mapping[str, Any], told: EndpointFacts | None) -> dict[str, Any]:
    capacity = options["kv_capacity_tokens"] or (told.kv_capacity_tokens if told else None)
    if capacity is None:
        raise ConfigError(
            "--kv-capacity-tokens: must be given, the engine does not say in /metrics how many KV tokens it holds; "
            "see its log"
        )
    facts = {
        "model": model,
        "system": options["system"],
        "tensor_parallel": options["tensor_parallel"],
        "engine": (told.engine if told else None) or "unknown",
        "engine_version": (told.version if told else None) or "unknown",
        "source": "measured from outside: gaps between tokens of controlled batches; the engine's host time is in them",
        "kv_bytes_per_token": _kv_bytes(model, options),
        "kv_capacity_tokens": capacity,
    }
    return facts | ({"conditions": options["conditions"]} if options["conditions"] else {})


def _kv_bytes(model: str, options: Mapping[str, Any]) -> float:
    """Return KV bytes of a token: as told, or by the model's shape."""
    if options["kv_bytes_per_token"]:
        return float(options["kv_bytes_per_token"])
    name = options["shape"] or next((known for known in MODELS if known in model.lower().replace("meta-", "")), None)
    if name is None:
        raise ConfigError(
            f"--shape: can't tell the KV bytes of a token of {model!r} by its name; give --shape with a known model or "
            "the path of its config.json, or --kv-bytes-per-token"
        )
    _, shape = find_shape(name)
    return float(4 * shape.num_layers * shape.num_kv_heads * shape.head_dim)  # keys and values, two bytes each


def _plan_facts(plan: MeasurePlan) -> dict[str, Any]:
    return {
        name: getattr(plan, name)
        for name in ("max_context_tokens", "max_decodes", "num_steps", "num_repeats", "chunk_tokens")
    }


def finish(content: dict[str, Any], errors: Errors, file: str, plot_file: str | None) -> None:
    """Check the profile, tell its error on held-out points, write it, and forget the state."""
    from polyslo.cli.profile import show

    content["held_out_error"] = error_facts(errors)
    named = parse_profile(content, Path(file).stem, where=file)
    show(named)
    Console().print(_error_table(errors))
    write_file(file, lambda: profile_text(content))
    Path(file + STATE_SUFFIX).unlink(missing_ok=True)
    if plot_file is not None:
        _plot(named, plot_file)


def _plot(named: NamedProfile, file: str) -> None:
    from polyslo.report.profile_figure import save_profile_figure

    save_profile_figure(named, file)
    click.echo(f"wrote {file}", err=True)


def _error_table(errors: Errors) -> Table:
    table = Table("points", "number", "mean |error|", "worst", "bias", title="Error on points held out")
    for kind, found in errors.items():
        row = (f"{np.abs(found).mean():.1%}", f"{np.abs(found).max():.1%}", f"{found.mean():+.1%}")
        table.add_row(kind, str(len(found)), *row)
    return table
