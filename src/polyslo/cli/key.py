"""`polyslo key`: API keys for the gateway; the configuration holds their hashes only."""

from __future__ import annotations

import sys

import click

from polyslo.errors import InputError
from polyslo.gateway.requests.keys import hash_of, new_key

MIN_KEY_CHARS = 20


@click.group("key")
def key_group() -> None:
    """API keys for the gateway: make one, or hash one that you have."""


@key_group.command("new")
@click.argument("name", default="NAME")
def new_command(name: str) -> None:
    """Make a key: it is shown this once; the gateway's configuration gets the other lines."""
    key, key_hash = new_key()
    click.echo(key)
    click.echo(f'\n[keys.{name}]\nhash = "{key_hash}"')
    click.echo("notice: the key is the first line and is kept nowhere; give it to its caller", err=True)


@key_group.command("hash")
def hash_command() -> None:
    """Print the hash of a key that you have. It is asked for, or read from stdin: arguments stay in the shell."""
    key = click.prompt("key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
    if len(key) < MIN_KEY_CHARS:
        raise InputError(
            f"key: must have at least {MIN_KEY_CHARS} characters, got {len(key)}; a short one can be guessed from its "
            "hash, polyslo key new makes a good one"
        )
    click.echo(hash_of(key.encode()))
