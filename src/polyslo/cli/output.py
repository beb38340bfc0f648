"""Files that commands write: whole or not at all, and refused before the long run where they can't be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import click

from polyslo.errors import ConfigError

Command = Callable[..., None]
Decorator = Callable[[Command], Command]


def output_option(*names: str, help: str) -> Decorator:
    """Return an option for a file to write; what can't be written is refused before the long run."""
    return click.option(*names, metavar="FILE", help=help, callback=_writable)


def write_file(file: str | None, content: Callable[[], str]) -> None:
    """Write a result file, if one was asked for, whole or not at all."""
    if file is None:
        return
    path = Path(file)
    draft = path.with_name(path.name + ".part")
    try:
        draft.write_text(content(), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ConfigError(f"{file}: can't be written, {error.strerror}; name another file") from error
    click.echo(f"wrote {file}", err=True)


def check_writable(file: str) -> None:
    """Raise `ConfigError` for a file that `write_file` could not write."""
    path = Path(file)
    if path.exists() and not path.is_file():
        reason = "it is a folder" if path.is_dir() else "it is not a regular file"
    elif not path.parent.is_dir():
        reason = f"there is no folder {str(path.parent)!r}"
    elif not os.access(path.parent, os.W_OK):
        reason = f"the folder {str(path.parent)!r} is read-only"
    else:
        return
    raise ConfigError(f"{file!r}: can't be written, {reason}; name another file")


def _writable(context: click.Context, option: click.Parameter, file: str | None) -> str | None:
    if file is not None:
        check_writable(file)
    return file
