"""`polyslo demo`: two fleets of emulated engines, two gateways, the same requests at the same time to both."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import click
import uvloop
from rich.console import Console
from rich.table import Table

from polyslo.cli.options import Finite
from polyslo.cli.progress import progress_bar
from polyslo.fleets.local_process import LocalProcess
from polyslo.load import LoadPlan, LoadResult, Target, load
from polyslo.profiles.library import DEFAULT_PROFILE
from polyslo.report.notation import ms_text, share_text, tier_name
from polyslo.sim.compare import Progress
from polyslo.sim.setting import Setting

START_TIMEOUT_S = 240.0  # the first start compiles
STOCK_CHUNK = 2048  # vLLM's default max_num_batched_tokens
SLACK_MS = 25  # two cores carry engines, gateways and load
_LAG = re.compile(r"^polyslo_emulated_lag_seconds_(sum|count)\{.*\} ([0-9.e+-]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Side:
    """A policy and the fleet of its own."""

    policy: str
    engines: tuple[str, ...]
    gateway: str
    page: str


@click.command("demo")
@click.option("--instances", metavar="N", type=click.IntRange(2, 64), default=8, show_default=True)
@click.option("--workload", metavar="NAME|FILE", default="azure2023-code", show_default=True)
@click.option("--profile", metavar="NAME|FILE", default=DEFAULT_PROFILE, show_default=True)
@click.option("--load", "load_ratio", metavar="SHARE", type=Finite(0.05, 2.0), default=0.9, show_default=True,
              help="Of the fluid optimum.")  # fmt: skip
@click.option("--speed", metavar="X", type=Finite(0.01, 4.0), default=0.5, show_default=True,
              help="Of the emulated engines: slower ones leave the machine time to be exact.")  # fmt: skip
@click.option("--seconds", metavar="S", type=Finite(10.0, 86_400.0), default=120.0, show_default=True,
              help="How long requests arrive, on the clock.")  # fmt: skip
@click.option("--against", metavar="POLICY", default="minimal", show_default=True, help="The other fleet's policy.")
@click.option("--port", metavar="PORT", type=click.IntRange(0, 65_535), default=0, help="Of the live page. [any]")
def demo_command(
    instances: int, workload: str, profile: str, load_ratio: float, speed: float, seconds: float, against: str,
    port: int,
) -> None:  # fmt: skip
    """Watch polyslo serve four tiers of requests live, beside another policy on the same requests.

    Everything is real but the engines, which are emulated from a GPU's profile in real time: gateway, HTTP, load.
    """
    setting = Setting.of(workload=workload, slo="default", mode="co", instances=instances, profile=profile)
    rate_rps = load_ratio * setting.optimum_rps()
    plan = LoadPlan.of(setting.workload(rate_rps, 0, duration_s=seconds * speed), speed=speed)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        policies = ("polyserve", against)
        ports = (port, 0)
        sides = [
            stack.enter_context(_side(folder, policy, setting, instances, speed, page_port))
            for policy, page_port in zip(policies, ports, strict=True)
        ]
        click.echo(f"live page: {sides[0].page}/  ({sides[1].policy}: {sides[1].page}/)", err=True)
        with progress_bar("serving") as progress:
            runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
            results = runner.run(_load(plan, sides, progress))
        lags_s = [_mean_lag_s(side.engines) for side in sides]
    Console().print(_table(setting, sides, results, rate_rps))
    for line in _notes(results, lags_s, speed):
        click.echo(line)


@contextmanager
def _side(folder: Path, policy: str, setting: Setting, instances: int, speed: float, page_port: int) -> Iterator[Side]:
    """Start engines and a gateway for a policy; they end with the block."""
    chunking = ["--dynamic-chunking"] if policy == "polyserve" else ["--max-num-batched-tokens", str(STOCK_CHUNK)]
    engine_arguments = ["emulate", "--port", "0", "--instances", str(instances), "--speed", str(speed), *chunking]
    engines = LocalProcess("engines", [*engine_arguments, "--profile", setting.named.name, "--model", "demo"])
    gateway = None
    try:
        urls = engines.addresses(instances, START_TIMEOUT_S)
        config = folder / f"{policy}.toml"
        config.write_text(_config(policy, setting, urls, speed, page_port), encoding="utf-8")
        gateway = LocalProcess("gateway", ["serve", str(config)])
        address, page = gateway.addresses(2, START_TIMEOUT_S)
        yield Side(policy, tuple(urls), address, page)
    finally:
        for process in (gateway, engines):
            if process is not None:
                process.stop()


def _config(policy: str, setting: Setting, urls: Sequence[str], speed: float, page_port: int) -> str:
    tpots_ms = [round(tpot_ms / speed, 6) for tpot_ms in setting.tpots_ms]
    chunking = "dynamic_chunking = true" if policy == "polyserve" else f"chunk_limit_tokens = {STOCK_CHUNK}"
    endpoints = "".join(f'[[models.endpoints]]\nurl = "{url}"\n' for url in urls)
    return (
        f'[server]\nport = 0\nmetrics_port = {page_port}\nlog_level = "error"\n[tiers]\ntpots_ms = {tpots_ms}\n'
        f'[[models]]\nname = "demo"\npolicy = "{policy}"\nprofile = "{setting.named.name}"\nspeed = {speed}\n'
        f"slack_ms = {SLACK_MS}\n{chunking}\n{endpoints}"
    )


async def _load(plan: LoadPlan, sides: Sequence[Side], progress: Progress) -> list[LoadResult]:
    """Send the plan to all sides at once; progress is that of the slowest."""
    done = dict.fromkeys(range(len(sides)), 0)

    def tell(index: int, count: int, total: int) -> None:
        done[index] = count
        progress(min(done.values()), total)

    loads = [load(plan, Target((side.gateway,)), progress=partial(tell, index)) for index, side in enumerate(sides)]
    return list(await asyncio.gather(*loads))


def _mean_lag_s(engines: Sequence[str]) -> float:
    """Return how late the engines' iterations ended on average, on the clock."""
    total = {"sum": 0.0, "count": 0.0}
    for url in engines:
        with urlopen(f"{url}/metrics", timeout=10) as response:
            for name, value in _LAG.findall(response.read().decode()):
                total[name] += float(value)
    return total["sum"] / total["count"] if total["count"] else 0.0


def _table(setting: Setting, sides: Sequence[Side], results: Sequence[LoadResult], rate_rps: float) -> Table:
    table = Table(
        title=f"attainment, {setting.config.num_instances} instances, {rate_rps:.0f} requests/s "
        f"({rate_rps / setting.optimum_rps():.0%} of the fluid optimum)"
    )
    table.add_column("tier")
    for side in sides:
        table.add_column(side.policy, justify="right")
    for k in range(len(setting.tpots_ms)):
        table.add_row(
            tier_name(setting.tpots_ms[k]), *(share_text(result.tiers[k].attainment) for result in results),
            end_section=k == len(setting.tpots_ms) - 1,
        )  # fmt: skip
    table.add_row("all", *(share_text(result.attainment) for result in results))
    table.add_row("TTFT p99", *(ms_text(result.total.ttft.p99_s) + " ms" for result in results))
    return table


def _notes(results: Sequence[LoadResult], lags_s: Sequence[float], speed: float) -> list[str]:
    sent = max(result.generator.send_lag.p99_s for result in results)
    lines = [
        f"Engines ran at {speed:g} of the GPU's speed, arrivals and SLOs stretched alike; times are scaled back.",
        f"Timing: iterations ended {1e3 * max(lags_s):.1f} ms late on average, requests were sent {1e3 * sent:.1f} ms "
        "late at p99.",
    ]
    if any(result.generator_limited for result in results):
        lines.append("This machine was too busy to be exact: take a smaller --speed or fewer --instances.")
    return lines
