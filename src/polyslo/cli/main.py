"""The command line: thin commands over `polyslo.sim` and `polyslo.report`.

Results go to stdout, progress and notices to stderr. Errors are one line and exit code 2.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import click

from polyslo.cli.compare import compare_command
from polyslo.cli.goodput import goodput_command
from polyslo.cli.plan import plan_command
from polyslo.cli.profile import profile_group
from polyslo.cli.simulate import simulate_command
from polyslo.cli.workload import workload_group
from polyslo.errors import PolysloError, nearest


class OneLineErrors(click.Group):
    """A group whose errors are one line on stderr and exit code 2, without a traceback or a usage text."""

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


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="polyslo")
def cli() -> None:
    """Plan, compare and replay multi-SLO serving of large language models."""


for command in (
    compare_command,
    simulate_command,
    goodput_command,
    plan_command,
    workload_group,
    profile_group,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line."""
    cli()


def _fail(message: str, *, at_once: bool = False) -> NoReturn:
    print(f"polyslo: {' '.join(message.split())}", file=sys.stderr, flush=True)
    if at_once:  # threads may be inside compiled code, which does not hear of an interrupt
        sys.stdout.flush()
        os._exit(2)
    sys.exit(2)


if __name__ == "__main__":
    main()
