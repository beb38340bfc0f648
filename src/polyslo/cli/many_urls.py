"""Options that take several values after one flag, as sglang-router's do: `--worker-urls http://a:1 http://b:2`.

click's options take a fixed number of values, so before it reads them the flag is written before each of its URLs.
What is no URL is left alone: a word after the URLs is the configuration file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

URL_FLAGS = ("--worker-urls", "--prefill", "--decode")


class UrlsCommand(click.Command):
    """A command whose `URL_FLAGS` take URLs separated by spaces or commas, and may be repeated."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """Read the command line."""
        return super().parse_args(context, list(spread(arguments)))


def spread(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments with a flag of its own before each URL."""
    flag: str | None = None  # that takes what comes
    is_first = False
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name in URL_FLAGS:
            flag, is_first = name, True
            argument = value
            if not value:
                continue
        elif argument.startswith("-"):
            if flag is not None and is_first:
                yield flag  # click says what is missing
            flag = None
        if flag is None or not (is_first or "://" in argument):
            flag = None
            yield argument
            continue
        is_first = False
        yield from (part for url in argument.split(",") if url for part in (flag, url))
    if flag is not None and is_first:
        yield flag


def urls_option(flag: str, text: str) -> Any:
    """Return the decorator of one of `URL_FLAGS`."""
    return click.option(flag, metavar="URL...", multiple=True, help=text)
