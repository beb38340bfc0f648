"""The command line: thin commands over `polyslo.sim` and `polyslo.report`.

Results go to stdout, progress and notices to stderr. Errors are one line and exit code 2.
"""

from __future__ import annotations

import sys

import click

from polyslo.cli.compare import compare_command
from polyslo.cli.goodput import goodput_command
from polyslo.cli.plan import plan_command
from polyslo.cli.profile import profile_group
from polyslo.cli.simulate import simulate_command
from polyslo.cli.workload import workload_group
from polyslo.errors import PolysloError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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
    """Run the command line; errors that a person can act on are one line, without a traceback."""
    try:
        cli(standalone_mode=False)
    except PolysloError as error:
        _fail(str(error))
    except click.ClickException as error:
        _fail(error.format_message())
    except click.Abort:
        _fail("interrupted")


def _fail(message: str) -> None:
    print(f"polyslo: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
