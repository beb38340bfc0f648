"""The command line: thin commands over `polyslo.sim` and `polyslo.report`.

Results go to stdout, progress and notices to stderr. Errors are one line and exit code 2.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from typing import Any, NoReturn

import click

from polyslo.errors import PolysloError, nearest

# Name: (module, function, what the list of commands says). Imported when called: numba alone takes most of a second.
COMMANDS = {
    "compare": ("compare", "compare_command", "Compare policies on one workload: attainment, goodput, cost."),
    "simulate": ("simulate", "simulate_command", "Simulate one run, with a timeline."),
    "goodput": ("goodput", "goodput_command", "Find the highest rate at an attainment, by bisection."),
    "plan": ("plan", "plan_command", "Tell how many instances a workload needs."),
    "demo": ("demo", "demo_command", "Serve emulated engines live, beside another policy on the same requests."),
    "serve": ("serve", "serve_command", "Serve engines as one OpenAI-compatible endpoint, each request by its SLO."),
    "up": ("up", "up_command", "Start engines on this machine and serve them as one endpoint."),
    "emulate": ("emulate", "emulate_command", "Serve a profile as an engine behind vLLM's API, in real time."),
    "load": ("load", "load_command", "Replay a workload against an OpenAI-compatible endpoint, with SLOs."),
    "replay": ("replay", "replay_command", "Decide a gateway's journal again, or simulate it under other policies."),
    "claims": ("claims", "claims_command", "Reproduce the paper's claims: tune, score, ablate, disturb."),
    "workload": ("workload", "workload_group", "Fitted workloads: list, fit a trace."),
    "profile": ("profile", "profile_group", "Iteration-time profiles: list, show, plot, estimate, measure."),
    "check": ("check", "check_command", "Check a gateway's configuration: every mistake at once."),
    "dashboards": ("dashboards", "dashboards_command", "Write a Grafana dashboard and alert rules for the gateway."),
    "key": ("key", "key_group", "API keys for the gateway: new, hash."),
}


class Commands(click.Group):
    """The commands, imported when called; errors are one line on stderr and exit code 2, without a traceback."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import a command; None for an unknown name."""
        if name not in COMMANDS:
            return None
        module, function, _ = COMMANDS[name]
        command: click.Command = getattr(import_module(f"polyslo.cli.{module}"), function)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run the command line and exit."""
        try:
            super().main(*args, **{**options, "standalone_mode": False})
        except PolysloError as error:
            _fail(str(error))
        except click.ClickException as error:
            message = error.format_message()
            if "\n" in message:  # not an error: the help of a group that was called without a command
                click.echo(message)
                sys.exit(2)
            _fail(message)
        except click.Abort:
            _fail("interrupted", at_once=True)
        except BrokenPipeError:  # whoever read our output has gone, as in `polyslo compare | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        sys.exit(0)

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; an unknown one suggests the nearest."""
        name = arguments[0]
        if not name.startswith("-") and self.get_command(context, name) is None:
            raise click.UsageError(f"no such command {name!r}{nearest(name, self.list_commands(context))}")
        return super().resolve_command(context, arguments)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="polyslo")
def cli() -> None:
    """Plan, compare and replay multi-SLO serving of large language models."""


def main() -> None:
    """Run the command line."""
    try:
        cli()
    finally:
        gc.freeze()  # looking through all that numba leaves behind takes the interpreter 0.3 s at its exit


def _fail(message: str, *, at_once: bool = False) -> NoReturn:
    print(f"polyslo: {' '.join(message.split())}", file=sys.stderr, flush=True)
    if at_once:  # threads may be inside compiled code, which does not hear of an interrupt
        sys.stdout.flush()
        os._exit(2)
    sys.exit(2)


if __name__ == "__main__":
    main()
