"""Errors that a person can act on.

Every message says what was wrong, what was found, what is allowed and what to do about it.
Refusing a request is a decision, not an error: nothing here is raised for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PolysloError(Exception):
    """Base of all errors that polyslo raises on purpose; the command line prints it and exits with 2."""


class InputError(PolysloError):
    """A file, option or value from outside is unusable."""


class TraceError(InputError):
    """A trace can't be read; the message names the file, and the line and column where there is one."""


class ProfileError(InputError):
    """A profile is missing, has holes, or has times that no engine can have."""


class ConfigError(InputError):
    """A configuration file or option has a wrong key or value."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Say which of `allowed` was probably meant: `; did you mean 'rates'?`, or list them all."""
    known = sorted(allowed)
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; allowed: {', '.join(known)}"


def reject_unknown_keys(found: Iterable[str], allowed: Iterable[str], where: str) -> None:
    """Raise `ConfigError` for the first key of `found` that is not in `allowed`, naming the nearest."""
    known = set(allowed)
    for key in found:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(key, known)}")
