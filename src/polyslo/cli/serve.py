"""`polyslo serve`: engines as one OpenAI-compatible endpoint, each request served by its SLO."""

from __future__ import annotations

from typing import Any

import click

from polyslo.gateway.app import run
from polyslo.gateway.config import load_config
from polyslo.gateway.config_server import LOG_LEVELS
from polyslo.gateway.log_lines import log_to_stderr
from polyslo.gateway.warmup import warm_up


@click.command("serve")
@click.argument("config_file", metavar="[CONFIG]", required=False)
@click.option("--worker-urls", metavar="URL...", multiple=True, help="An instance; may be given many times.")
@click.option("--model", metavar="NAME", help="The model as requests name it. [any]")
@click.option("--profile", metavar="NAME|FILE|roofline:MODEL:GPU", help="Iteration times of the instances.")
@click.option("--policy", metavar="NAME", help="The policy. [polyserve]")
@click.option("--host", metavar="HOST", help="[127.0.0.1]")
@click.option("--port", metavar="PORT", type=click.IntRange(0, 65_535), help="[30000]")
@click.option("--prometheus-host", metavar="HOST", help="Of the page and metrics. [127.0.0.1]")
@click.option("--prometheus-port", metavar="PORT", type=click.IntRange(0, 65_535), help="[29000]")
@click.option("--max-concurrent-requests", metavar="N", type=click.IntRange(1))
@click.option("--retry-max-retries", metavar="N", type=click.IntRange(0))
@click.option("--cb-failure-threshold", metavar="N", type=click.IntRange(1))
@click.option("--health-check-interval-secs", metavar="S", type=float)
@click.option("--api-key", metavar="KEY", envvar="POLYSLO_API_KEY", help="A key that requests must have.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS))
def serve_command(config_file: str | None, **flags: Any) -> None:
    """Serve engines as one endpoint; CONFIG is a TOML file (docs/gateway-config.md), flags go over it.

    `polyslo serve --worker-urls http://127.0.0.1:8000 --worker-urls http://127.0.0.1:8001` is enough to start.
    """
    config = load_config(config_file, flags)
    log_to_stderr(config.server.log_level)
    warm_up()
    run(config, lambda line: click.echo(line, err=True))
