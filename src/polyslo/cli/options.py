"""Options that every command shares, and how they become a `Setting`."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from polyslo.errors import ConfigError, reject_unknown_keys
from polyslo.profiles.library import DEFAULT_PROFILE
from polyslo.sim.fleet import FleetConfig, field_names
from polyslo.sim.setting import DEFAULT_DURATION_S, Setting

Command = Callable[..., None]

_SETTING_OPTIONS = (
    click.option("--trace", metavar="FILE", help="A trace: Azure, Mooncake, Bailian, BurstGPT, ShareGPT, vLLM, ours."),
    click.option("--workload", metavar="NAME", help="A fitted workload (polyslo workload list). [azure2023-conv]"),
    click.option("--profile", metavar="NAME|FILE|roofline:MODEL:GPU", default=DEFAULT_PROFILE, show_default=True),
    click.option("--slo", metavar="NAME|FILE", default="default", show_default=True, help="The SLO mix."),
    click.option("--instances", metavar="N", type=click.IntRange(1), help="Instances in the fleet. [20]"),
    click.option("--mode", metavar="co|pd", help="Co-located, or prefill and decode apart. [co]"),
    click.option("--arrivals", default="poisson", show_default=True, metavar="poisson|fitted|gamma:CV"),
    click.option("--fleet", metavar="FILE", help="TOML with a [fleet] table: noise, cold starts, memory, ..."),
    click.option("--seeds", metavar="K", type=click.IntRange(1), default=2, show_default=True),
    click.option(
        "--duration", "duration_s", metavar="SECONDS", type=click.FloatRange(1.0), default=DEFAULT_DURATION_S,
        show_default=True, help="Seconds of arrivals in a run.",
    ),
    click.option("--json", "json_file", metavar="FILE", help="Write the results as JSON."),
)  # fmt: skip

_RATE_OPTIONS = (
    click.option("--rates", metavar="A,B,...", help="Requests per second."),
    click.option("--scale", metavar="X", type=click.FloatRange(0, min_open=True), help="Times the trace's own rate."),
)


def setting_options(command: Command) -> Command:
    """Add the options of workload, fleet and output."""
    for option in reversed(_SETTING_OPTIONS):
        command = option(command)
    return command


def rate_options(command: Command) -> Command:
    """Add `--rates` and `--scale`."""
    for option in reversed(_RATE_OPTIONS):
        command = option(command)
    return command


def make_setting(options: dict[str, Any]) -> Setting:
    """Take the setting's options out of `options` and resolve them."""
    names = ("trace", "workload", "profile", "slo", "instances", "mode", "arrivals")
    picked = {name: options.pop(name) for name in names}
    fleet_file = options.pop("fleet")
    return Setting.of(fleet=read_fleet(fleet_file) if fleet_file else None, **picked)


def read_fleet(file: str) -> FleetConfig:
    """Read the `[fleet]` table of a TOML file; raises `ConfigError` naming the nearest known key."""
    try:
        data = tomllib.loads(Path(file).read_text())
    except OSError as error:
        raise ConfigError(f"{file}: can't be read, {error.strerror}; check the path") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML, {error}") from error
    reject_unknown_keys(data, ["fleet"], file)
    table = data.get("fleet", {})
    reject_unknown_keys(table, field_names(), f"{file}: [fleet]")
    defaults = FleetConfig()
    for key, value in table.items():
        expected = getattr(defaults, key)
        number = isinstance(expected, float) and isinstance(value, int) and not isinstance(value, bool)
        if expected is not None and type(value) is not type(expected) and not number:
            raise ConfigError(f"{file}: fleet.{key} must be a {type(expected).__name__}, got {value!r}")
    return FleetConfig(**table)


def parse_rates(rates: str | None, scale: float | None, setting: Setting) -> list[float] | None:
    """Return the rates asked for, requests per second; None when neither option was given."""
    if rates and scale:
        raise ConfigError("give --rates or --scale, not both")
    if scale:
        return [scale * setting.source_rate_rps]
    if not rates:
        return None
    found = []
    for text in rates.split(","):
        try:
            rate = float(text)
        except ValueError:
            rate = float("nan")
        if not 0 < rate < float("inf"):
            raise ConfigError(f"--rates: requests per second must be numbers > 0, got {text!r}; e.g. --rates 100,200")
        found.append(rate)
    return found


def write_file(file: str | None, content: Callable[[], str]) -> None:
    """Write a result file, if one was asked for, whole or not at all."""
    if not file:
        return
    path = Path(file)
    draft = path.with_name(path.name + ".part")
    try:
        draft.write_text(content())
        draft.replace(path)
    except OSError as error:
        raise ConfigError(f"{file}: can't be written, {error.strerror}; check the folder") from error
    click.echo(f"wrote {file}", err=True)
