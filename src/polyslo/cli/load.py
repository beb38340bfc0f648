"""`polyslo load`: a workload with its SLOs against an endpoint, open loop."""

from __future__ import annotations

import json
import resource
from typing import Any

import click
from rich.console import Console

from polyslo.cli.load_table import load_table
from polyslo.cli.options import Finite, all_options, parse_rates, source_options
from polyslo.cli.output import output_option, write_file
from polyslo.cli.progress import progress_bar
from polyslo.errors import ConfigError
from polyslo.load.plan import LoadPlan, with_drawn_ttfts
from polyslo.load.records import Records
from polyslo.load.replay import DEFAULT_MAX_IN_FLIGHT, DEFAULT_TIMEOUT_S, Limits
from polyslo.load.request_table import request_table
from polyslo.load.result import LoadResult
from polyslo.load.run import run_load
from polyslo.load.target import DEFAULT_VOCAB_SIZE, ENDPOINTS, OUTPUT_LENGTHS, PROMPTS, Target
from polyslo.report.data import plain
from polyslo.sim.run import COOLDOWN_RATIO, WARMUP_RATIO
from polyslo.sim.setting import Setting

SCHEMA = "polyslo.load/1"
DEFAULT_DURATION_S = 60.0
SPARE_FILES = 64  # beside connections

plan_options = all_options(
    click.option("--rate", "--rates", "rates", metavar="RPS", help="Requests per second. [the workload's own]"),
    click.option("--scale", metavar="X", type=Finite(0, min_open=True), help="Times the workload's own rate."),
    click.option("--duration", "duration_s", metavar="SECONDS", type=Finite(1.0), default=DEFAULT_DURATION_S,
                 show_default=True, help="Seconds of arrivals, before --speed."),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True),
    click.option("--keep-ttfts", is_flag=True,
                 help="Keep drawn TTFTs that an idle instance of the profile could not meet."),
    click.option("--speed", metavar="X", type=Finite(0, min_open=True), default=1.0, show_default=True,
                 help="Speed of an emulated engine; arrivals and SLOs are stretched, times scaled back."),
    click.option("--warm-up", "warm_up_ratio", metavar="SHARE", type=Finite(0, 0.8), default=WARMUP_RATIO,
                 show_default=True, help=f"Of the arrivals' span; not scored, as the last {COOLDOWN_RATIO:g} is not."),
)  # fmt: skip
target_options = all_options(
    click.option("--url", "urls", metavar="URL", multiple=True, default=["http://127.0.0.1:30000"], show_default=True,
                 help="The server; given several times, they take turns."),
    click.option("--model", metavar="NAME", help="The model. [what the server lists]"),
    click.option("--endpoint", metavar="|".join(ENDPOINTS), default="completions", show_default=True),
    click.option("--api-key", metavar="KEY", envvar="POLYSLO_API_KEY", help="Or the environment's POLYSLO_API_KEY."),
    click.option("--slo-headers/--no-slo-headers", default=True, show_default=True,
                 help="Send x-llm-d-slo-ttft-ms and x-llm-d-slo-tpot-ms."),
    click.option("--header", "headers", metavar="NAME:VALUE", multiple=True,
                 help="Send it with each request, e.g. x-llm-d-inference-objective:chat for a class."),
    click.option("--prompt", metavar="|".join(PROMPTS), help="Random token ids, or words. [ids; text for chat]"),
    click.option("--vocab", "vocab_size", metavar="N", type=click.IntRange(1, 10_000_000), default=DEFAULT_VOCAB_SIZE,
                 show_default=True, help="Token ids are below it."),
    click.option("--prompt-seed", metavar="N", type=click.IntRange(0, 2**32 - 1),
                 help="Draws other prompts: for another run before an engine's prefix cache has forgotten. [--seed]"),
    click.option("--output-lengths", metavar="|".join(OUTPUT_LENGTHS), default="exact", show_default=True,
                 help="Enforce drawn lengths (ignore_eos), or only cap outputs at them."),
    click.option("--exact-tokens", is_flag=True, help="Count tokens by usage in every event, not by events."),
)  # fmt: skip
limit_options = all_options(
    click.option("--max-in-flight", metavar="N", type=click.IntRange(1), default=DEFAULT_MAX_IN_FLIGHT,
                 show_default=True, help="Beyond it requests are not sent, and count as failed."),
    click.option("--timeout", "timeout_s", metavar="SECONDS", type=Finite(0, min_open=True), default=DEFAULT_TIMEOUT_S,
                 show_default=True, help="Wall time of a request; beyond it, it counts as unfinished."),
)  # fmt: skip


@click.command("load")
@source_options
@plan_options
@target_options
@limit_options
@output_option("--json", "json_file", help="Write the result as JSON.")
@output_option("--requests", "requests_file", help="Write what happened to each request as CSV.")
def load_command(
    json_file: str | None, requests_file: str | None, max_in_flight: int, timeout_s: float, **options: Any
) -> None:
    """Replay a workload against an OpenAI-compatible endpoint, open loop, and score every token's deadline."""
    plan = _plan(options)
    seed = options.pop("seed")
    prompt_seed = options.pop("prompt_seed")
    target = Target(
        urls=tuple(options.pop("urls")), prompt_seed=seed if prompt_seed is None else prompt_seed, **options
    )
    limits = Limits(_room_for(max_in_flight), timeout_s)
    for notice in plan.workload.notices:
        _notify(notice)
    records = Records(len(plan))
    with progress_bar("sending") as progress:
        result = run_load(plan, target, limits=limits, progress=progress, notify=_notify, records=records)
    write_file(json_file, lambda: to_json(result))
    write_file(requests_file, lambda: request_table(plan, records))
    Console().print(load_table(result))
    for limit in result.generator.limits:
        click.echo(f"warning: the load generator is the limit, not (only) the endpoint: {limit}", err=True)


def to_json(result: LoadResult) -> str:
    """Write a result with a stable key order, under its schema; NaN becomes null."""
    document = {"schema": SCHEMA, **plain(result)}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _plan(options: dict[str, Any]) -> LoadPlan:
    """Take the plan's options out of `options` and draw its requests; the seed stays."""
    names = ("trace", "trace_format", "workload", "profile", "slo", "arrivals")
    setting = Setting.of(**{name: options.pop(name) for name in names})
    rates = parse_rates(options, setting) or [setting.source_rate_rps]
    if len(rates) != 1:
        raise ConfigError(f"load sends at one rate, got {len(rates)}; run it once for each")
    workload = setting.workload(rates[0], options["seed"], duration_s=options.pop("duration_s"))
    if options.pop("keep_ttfts"):
        workload = with_drawn_ttfts(workload, setting.mix, options["seed"])
    return LoadPlan.of(workload, speed=options.pop("speed"), warm_up_ratio=options.pop("warm_up_ratio"))


def _room_for(max_in_flight: int) -> int:
    """Raise the limit on open files as far as needed and allowed; return how many requests it has room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_in_flight + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return max_in_flight
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        _notify(f"at most {allowed - SPARE_FILES:,} requests in flight: the system allows {hard:,} open files")
    return max(1, allowed - SPARE_FILES)


def _notify(notice: str) -> None:
    click.echo(f"notice: {notice}", err=True)
