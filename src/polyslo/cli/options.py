"""Options that commands share, and how they become a `Setting`.

What `make_setting` and `parse_rates` leave in a command's options are keyword arguments of its function in
`polyslo.sim`, under the same names.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from polyslo.errors import ConfigError, reject_unknown_keys
from polyslo.profiles.library import DEFAULT_PROFILE
from polyslo.sim.fleet import FleetConfig, PolicySpec, field_names
from polyslo.sim.setting import DEFAULT_DURATION_S, Setting
from polyslo.workload.process import FORMS

Command = Callable[..., None]
Decorator = Callable[[Command], Command]


def _all(*options: Decorator) -> Decorator:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


setting_options = _all(
    click.option("--trace", metavar="FILE", help="A trace: Azure, Mooncake, Bailian, BurstGPT, ShareGPT, vLLM, ours."),
    click.option("--workload", metavar="NAME", help="A fitted workload (polyslo workload list). [azure2023-conv]"),
    click.option(
        "--arrivals", metavar="|".join(FORMS), help="How requests arrive. [a trace's own arrivals; else poisson]"
    ),
    click.option("--slo", metavar="NAME|FILE", default="default", show_default=True, help="The SLO mix."),
    click.option("--profile", metavar="NAME|FILE", default=DEFAULT_PROFILE, show_default=True),
    click.option("--host-ms", metavar="MS", type=float, default=0.0, show_default=True,
                 help="The engine's own time per step, which shipped profiles leave out."),
    click.option("--mode", metavar="co|pd", help="Co-located, or prefill and decode apart. [co]"),
    click.option("--fleet", metavar="FILE", help="TOML with a [fleet] table: noise, cold starts, memory, ..."),
)  # fmt: skip
instances_option = click.option("--instances", metavar="N", type=click.IntRange(1), help="Instances in the fleet. [20]")
rate_options = _all(
    click.option("--rates", metavar="A,B,...", help="Requests per second."),
    click.option("--scale", metavar="X", type=click.FloatRange(0, min_open=True), help="Times the trace's own rate."),
)
trial_options = _all(
    click.option("--seeds", metavar="K", type=click.IntRange(1), default=2, show_default=True),
    click.option("--duration", "duration_s", metavar="SECONDS", type=click.FloatRange(1.0), default=DEFAULT_DURATION_S,
                 show_default=True, help="Seconds of arrivals in a run."),
    click.option("--json", "json_file", metavar="FILE", help="Write the results as JSON."),
)  # fmt: skip
html_option = click.option("--html", "html_file", metavar="FILE", help="Write one self-contained page with figures.")
target_option = click.option("--at", "target", type=float, default=0.99, show_default=True, help="Attainment to hold.")


def policies_option(default: str) -> Decorator:
    """Return `--policies` with a default."""
    return click.option("--policies", metavar="A,B,...", callback=_policies, default=default, show_default=True)


def make_setting(options: dict[str, Any]) -> Setting:
    """Take the setting's options out of `options` and resolve them; what is left belongs to the command."""
    names = ("trace", "workload", "profile", "slo", "mode", "arrivals")
    picked = {name: options.pop(name) for name in names}
    picked["instances"] = options.pop("instances", None)  # `plan` has no such option, it looks for the number
    fleet_file = options.pop("fleet")
    host_s = options.pop("host_ms") / 1e3
    return Setting.of(fleet=read_fleet(fleet_file) if fleet_file else None, host_s=host_s, **picked)


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


def parse_rates(options: dict[str, Any], setting: Setting) -> list[float] | None:
    """Take `--rates` and `--scale` out of `options`; return requests per second, None when neither was given."""
    rates, scale = options.pop("rates"), options.pop("scale")
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


def show_notices(setting: Setting, rate_rps: float, duration_s: float) -> None:
    """Say on stderr, before anything runs, what was done to the workload."""
    for notice in setting.notices(rate_rps, duration_s):
        click.echo(f"notice: {notice}", err=True)


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


def _policies(context: click.Context, option: click.Parameter, text: str) -> list[str]:
    """Split at commas that begin another policy: an option's value goes on with its own (`chunk:a=1,b=2`)."""
    found: list[str] = []
    for part in text.split(","):
        if found and "=" in part and ":" not in part:
            found[-1] += f",{part}"
        else:
            found.append(part)
    for policy in found:
        PolicySpec.parse(policy)  # now, and not after the trace was read
    return found
