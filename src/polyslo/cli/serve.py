"""`polyslo serve`: engines as one OpenAI-compatible endpoint, each request served by its SLO."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import click

from polyslo.cli.many_urls import UrlsCommand, urls_option
from polyslo.gateway.app import run
from polyslo.gateway.config.gateway import GatewayConfig, load_config
from polyslo.gateway.config.server import LOG_LEVELS
from polyslo.gateway.config.table import NO_FILE, MistakenConfigError
from polyslo.gateway.explain import Explanation, explain
from polyslo.gateway.journal.learned_tiers import with_learned_tiers
from polyslo.gateway.observability.log_lines import log_to_stderr
from polyslo.gateway.warmup import warm_up

log = logging.getLogger("polyslo")


@click.command("serve", cls=UrlsCommand)
@click.argument("config_file", metavar="[CONFIG]", required=False)
@urls_option("--worker-urls", "Instances; also several after one flag, or with commas between.")
@urls_option("--prefill", "Instances that prefill only; implies mode pd.")
@urls_option("--decode", "Instances that decode only; implies mode pd.")
@click.option("--instances-file", metavar="FILE", help="Instances in the llm-d shape, read again when it changes.")
@click.option("--model", metavar="NAME", help="The model as requests name it. [any]")
@click.option("--profile", metavar="NAME|FILE|roofline:MODEL:GPU", help="Iteration times of the instances.")
@click.option("--policy", metavar="NAME", help="The policy. [polyserve]")
@click.option("--max-num-batched-tokens", metavar="N", type=int, help="The engines' constant chunk. [8192]")
@click.option("--dynamic-chunking", is_flag=True, default=None, help="Engines have polyslo's scheduler instead.")
@click.option("--host", metavar="HOST", help="[127.0.0.1]")
@click.option("--port", metavar="PORT", type=click.IntRange(0, 65_535), help="[30000]")
@click.option("--prometheus-host", metavar="HOST", help="Of the page, metrics and /workers. [127.0.0.1]")
@click.option("--prometheus-port", metavar="PORT", type=click.IntRange(0, 65_535), help="[29000]")
@click.option("--ext-proc-port", metavar="PORT", type=click.IntRange(0, 65_535), help="For Envoy. [none]")
@click.option("--processes", metavar="N", type=click.IntRange(1, 256), help="That read and write HTTP. [1]")
@click.option("--max-concurrent-requests", metavar="N", type=click.IntRange(1), help="Under way at once. [8192]")
@click.option("--queue-size", metavar="N", type=click.IntRange(0), help="Waiting for a place. [1024]")
@click.option("--queue-timeout-secs", metavar="S", type=float, help="Longest wait for a place. [60]")
@click.option("--request-timeout-secs", metavar="S", type=float, help="Longest request. [1800]")
@click.option("--retry-max-retries", metavar="N", type=click.IntRange(0), help="At other instances. [2]")
@click.option("--cb-failure-threshold", metavar="N", type=click.IntRange(1), help="Until unhealthy. [3]")
@click.option("--health-check-interval-secs", metavar="S", type=float, help="Between two looks. [10]")
@click.option("--api-key", metavar="KEY", envvar="POLYSLO_API_KEY", help="A key that requests must have.")
@click.option("--journal", metavar="FILE", help="Write down every decision, for polyslo replay.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="[info]")
def serve_command(config_file: str | None, **flags: Any) -> None:
    """Serve engines as one endpoint; CONFIG is a TOML file (docs/gateway-config.md), flags go over it.

    `polyslo serve --worker-urls http://127.0.0.1:8000 http://127.0.0.1:8001` is enough to start.
    """
    config = load_config(config_file, flags)
    log_to_stderr(config.server.log_level)
    warn(refuse(config, config_file or NO_FILE))
    warm_up()
    learned = with_learned_tiers(config)
    reread = partial(_reread, config_file, flags, config, learned)
    run(learned, lambda line: click.echo(line, err=True), config_file, reread)


def warn(explanation: Explanation) -> None:
    """Log what `polyslo check` warns of."""
    for warning in explanation.warnings:
        log.warning("%s", warning)


def refuse(config: GatewayConfig, file: str) -> Explanation:
    """Refuse what `polyslo check` refuses; else return what it says. Raises `MistakenConfigError`."""
    explanation = explain(config)
    if explanation.mistakes:
        raise MistakenConfigError(explanation.mistakes, file)
    return explanation


def _reread(
    file: str | None, flags: Mapping[str, Any], started: GatewayConfig, learned: GatewayConfig
) -> GatewayConfig:
    """Read the configuration again; tiers that were learned at the start stay as they are."""
    new = load_config(file, flags)
    return replace(new, tiers=learned.tiers) if new.tiers == started.tiers else new
