"""Options that commands share, and how they become a `Setting`.

What `make_setting` and `parse_rates` leave in a command's options are keyword arguments of its function in
`polyslo.sim`, under the same names.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from polyslo.cli.output import Command, Decorator, output_option
from polyslo.core.extent import Extent
from polyslo.errors import ConfigError, reject_unknown_keys
from polyslo.profiles.library import DEFAULT_PROFILE
from polyslo.sim.fleet import MAX_INSTANCES, FleetConfig, PolicySpec, field_kinds
from polyslo.sim.setting import DEFAULT_DURATION_S, Setting
from polyslo.workload.process import FORMS

MIN_REQUESTS = 20  # fewer say nothing: the scored window has 70% of them
_KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}


class Finite(click.FloatRange):
    """A number inside a range; NaN and infinities are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is not finite, which `FloatRange` lets pass."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def all_options(*options: Decorator) -> Decorator:
    """Return a decorator that adds all of these options, listed in their order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


source_options = all_options(
    click.option("--trace", metavar="FILE", help="A trace: Azure, Mooncake, Bailian, BurstGPT, ShareGPT, vLLM, ours."),
    click.option("--trace-format", metavar="NAME", help="Its format; told from its content when not given."),
    click.option("--workload", metavar="NAME|FILE", help="A fitted workload (polyslo workload list). [azure2023-conv]"),
    click.option(
        "--arrivals", metavar="|".join(FORMS), help="How requests arrive. [a trace's own arrivals; else poisson]"
    ),
    click.option("--slo", metavar="NAME|FILE", default="default", show_default=True, help="The SLO mix."),
    click.option("--profile", metavar="NAME|FILE|roofline:MODEL:GPU", default=DEFAULT_PROFILE, show_default=True),
)
setting_options = all_options(
    source_options,
    click.option("--host-ms", metavar="MS", type=Finite(0, 1000), default=0.0, show_default=True,
                 help="The engine's own time per step, which shipped profiles leave out."),
    click.option("--mode", metavar="co|pd", help="Co-located, or prefill and decode apart. [co]"),
    click.option("--fleet", metavar="FILE", help="TOML with a [fleet] table: noise, cold starts, memory, ..."),
)  # fmt: skip
instances_option = click.option(
    "--instances", metavar="N", type=click.IntRange(1, MAX_INSTANCES), help="Instances in the fleet. [20]"
)
rate_options = all_options(
    click.option("--rates", metavar="A,B,...", help="Requests per second."),
    click.option("--scale", metavar="X", type=Finite(0, min_open=True), help="Times the trace's own rate."),
)
trial_options = all_options(
    click.option("--seeds", metavar="K", type=click.IntRange(1, 1000), default=2, show_default=True),
    click.option("--duration", "duration_s", metavar="SECONDS", type=Finite(1.0), default=DEFAULT_DURATION_S,
                 show_default=True, help="Seconds of arrivals in a run."),
    output_option("--json", "json_file", help="Write the results as JSON."),
)  # fmt: skip
html_option = output_option("--html", "html_file", help="Write one self-contained page with figures.")
target_option = click.option(
    "--at", "target", type=Finite(0, 1, min_open=True), default=0.99, show_default=True, help="Attainment to hold."
)


def policies_option(default: str) -> Decorator:
    """Return `--policies` with a default."""
    names = ("--policies", "--policy", "policies")
    return click.option(*names, metavar="A,B,...", callback=split_policies, default=default, show_default=True)


def instead_option(name: str, remedy: str) -> Decorator:
    """Return an option that other commands have and this one can't: given, it is an error that says what to use."""

    def refuse(context: click.Context, option: click.Parameter, value: str | None) -> None:
        if value is not None:
            raise ConfigError(f"{name}: {context.info_name} does not take it, got {value!r}; {remedy}")

    return click.option(name, hidden=True, expose_value=False, callback=refuse)


def make_setting(options: dict[str, Any]) -> Setting:
    """Take the setting's options out of `options` and resolve them; what is left belongs to the command."""
    names = ("trace", "trace_format", "workload", "profile", "slo", "mode", "arrivals")
    picked = {name: options.pop(name) for name in names}
    picked["instances"] = options.pop("instances", None)  # `plan` has no such option, it looks for the number
    fleet_file = options.pop("fleet")
    host_s = options.pop("host_ms") / 1e3
    return Setting.of(fleet=read_fleet(fleet_file) if fleet_file else None, host_s=host_s, **picked)


def read_fleet(file: str) -> FleetConfig:
    """Read the `[fleet]` table of a TOML file; raises `ConfigError` naming the nearest known key."""
    try:
        data = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: can't be read, {error.strerror}; check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not TOML, {error}; correct the file") from error
    reject_unknown_keys(data, ["fleet"], file)
    table = data.get("fleet")
    if not isinstance(table, dict):
        raise ConfigError(f"{file}: must have a table [fleet], got {table!r}; write its keys under a line [fleet]")
    kinds = field_kinds()
    reject_unknown_keys(table, kinds, f"{file}: [fleet]")
    for key, value in table.items():
        whole_for_float = kinds[key] is float and type(value) is int
        if type(value) is not kinds[key] and not whole_for_float:
            raise ConfigError(f"{file}: fleet.{key} must be {_KIND_NAMES[kinds[key]]}, got {value!r}; correct it")
    try:
        return FleetConfig(**table)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def parse_rates(options: dict[str, Any], setting: Setting) -> list[float] | None:
    """Take `--rates` and `--scale` out of `options`; return requests per second, None when neither was given."""
    rates, scale = options.pop("rates"), options.pop("scale")
    if rates is not None and scale is not None:
        raise ConfigError("--rates and --scale exclude each other, got both; leave one out")
    if scale is not None:
        found = [scale * setting.source_rate_rps]
    elif rates is not None:
        found = [_rate(text) for text in rates.split(",")]
    else:
        return None
    for rate in found:
        num_requests = rate * options["duration_s"]
        if num_requests < MIN_REQUESTS:
            raise ConfigError(
                f"rate {rate:g} requests/s over {options['duration_s']:g} s: must give at least {MIN_REQUESTS} "
                f"requests, got {num_requests:.3g}; raise the rate or --duration"
            )
    return found


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = float("nan")
    if not 0 < rate < float("inf"):
        raise ConfigError(f"--rates: must be numbers > 0, in requests per second, got {text!r}; e.g. --rates 100,200")
    return rate


def show_notices(setting: Setting, rate_rps: float, duration_s: float) -> None:
    """Say on stderr, before anything runs, what was done to the workload."""
    _show(setting.notices(rate_rps, duration_s))


def show_extrapolations(setting: Setting, largest: Iterable[Extent | None]) -> None:
    """Say on stderr, once, how far what ran went beyond the points of the profile."""
    _show(setting.extrapolations(largest))


def _show(notices: Iterable[str]) -> None:
    for notice in notices:
        click.echo(f"notice: {notice}", err=True)


def split_policies(context: click.Context, option: click.Parameter, text: str | None) -> list[str] | None:
    """Split at commas that begin another policy: an option's value goes on with its own (`chunk:a=1,b=2`)."""
    if text is None:
        return None
    found: list[str] = []
    for part in text.split(","):
        if found and "=" in part and ":" not in part:
            found[-1] += f",{part}"
        else:
            found.append(part)
    for policy in found:
        PolicySpec.parse(policy)  # now, and not after the trace was read
    return found
