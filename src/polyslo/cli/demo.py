"""`polyslo demo`: two fleets of emulated engines, two gateways, the same requests at the same time to both."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
import uvloop
from rich.console import Console
from rich.table import Table

from polyslo.cli.options import Finite
from polyslo.cli.progress import progress_bar
from polyslo.fleets.emulated_fleet import EmulatedFleet, emulated_fleet
from polyslo.load import LoadPlan, LoadResult, Target, load
from polyslo.profiles.library import DEFAULT_PROFILE
from polyslo.report.notation import ms_text, rate_text, share_text, tier_name
from polyslo.sim.compare import Progress
from polyslo.sim.setting import Setting


@click.command("demo")
@click.option("--instances", metavar="N", type=click.IntRange(2, 64), default=8, show_default=True)
@click.option("--workload", metavar="NAME|FILE", default="mooncake-conversation", show_default=True)
@click.option("--arrivals", metavar="FORM", default="fitted", show_default=True,
              help="fitted: as uneven as in the trace that the workload was fitted to; or poisson.")  # fmt: skip
@click.option("--profile", metavar="NAME|FILE", default=DEFAULT_PROFILE, show_default=True)
@click.option("--load", "load_ratio", metavar="SHARE", type=Finite(0.05, 2.0), default=0.7, show_default=True,
              help="Of the fluid optimum.")  # fmt: skip
@click.option("--speed", metavar="X", type=Finite(0.01, 4.0), default=0.5, show_default=True,
              help="Of the emulated engines: slower ones leave the machine time to be exact.")  # fmt: skip
@click.option("--seconds", metavar="S", type=Finite(10.0, 86_400.0), default=120.0, show_default=True,
              help="How long requests arrive, on the clock.")  # fmt: skip
@click.option("--against", metavar="POLICY", default="minimal", show_default=True, help="The other fleet's policy.")
@click.option("--port", metavar="PORT", type=click.IntRange(0, 65_535), default=0, help="Of the live page. [any]")
def demo_command(
    instances: int, workload: str, arrivals: str, profile: str, load_ratio: float, speed: float, seconds: float,
    against: str, port: int,
) -> None:  # fmt: skip
    """Watch polyslo serve four tiers of requests live, beside another policy on the same requests.

    Everything is real but the engines, which are emulated from a GPU's profile in real time: gateway, HTTP, load.
    """
    setting = Setting.of(
        workload=workload, slo="default", mode="co", instances=instances, profile=profile, arrivals=arrivals
    )
    rate_rps = load_ratio * setting.optimum_rps()
    plan = LoadPlan.of(setting.workload(rate_rps, 0, duration_s=seconds * speed), speed=speed)
    for notice in plan.workload.notices:
        click.echo(f"notice: {notice}", err=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        policies = ("polyserve", against)
        ports = (port, 0)
        sides = [
            stack.enter_context(emulated_fleet(folder, policy, setting, speed, page_port))
            for policy, page_port in zip(policies, ports, strict=True)
        ]
        click.echo(f"live page: {sides[0].page}/  ({sides[1].policy}: {sides[1].page}/)", err=True)
        with progress_bar("serving") as progress:
            runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
            results = runner.run(_load(plan, sides, progress))
        lags_s = [side.mean_lag_s() for side in sides]
    Console().print(_table(setting, sides, results, rate_rps))
    click.echo(f"Requests: {setting.name}, {setting.arrivals_text} arrivals, {len(plan):,} sent to each side.")
    for line in _notes(results, lags_s, speed):
        click.echo(line)


async def _load(plan: LoadPlan, sides: Sequence[EmulatedFleet], progress: Progress) -> list[LoadResult]:
    """Send the plan to all sides at once; progress is that of the slowest."""
    done = dict.fromkeys(range(len(sides)), 0)

    def tell(index: int, count: int, total: int) -> None:
        done[index] = count
        progress(min(done.values()), total)

    loads = [load(plan, Target((side.gateway,)), progress=partial(tell, index)) for index, side in enumerate(sides)]
    return list(await asyncio.gather(*loads))


def _table(setting: Setting, sides: Sequence[EmulatedFleet], results: Sequence[LoadResult], rate_rps: float) -> Table:
    table = Table(
        title=f"attainment, {setting.config.num_instances} instances, {rate_text(rate_rps)} requests/s "
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
