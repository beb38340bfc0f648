"""How a TOML table becomes a frozen dataclass: every mistake is collected, none hides the next.

A configuration class states each key once, as a dataclass field with a kind, its meaning and its default; reading,
checking and the reference in docs/gateway-config.md all follow from that. Source: ours. What is allowed between
keys is the business of the classes: see `GatewayConfig`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from polyslo.errors import ConfigError
from polyslo.gateway.config.kinds import FAILED, Kind, Mistakes, Secret, told

NO_FILE = "the command line"  # what a configuration without a file is called


class MistakenConfigError(ConfigError):
    """A configuration has mistakes; `mistakes` are all of them, a line each, and the text is the first."""

    def __init__(self, mistakes: tuple[str, ...], file: str) -> None:
        self.mistakes = mistakes
        more = len(mistakes) - 1
        hint = "" if file == NO_FILE else f": `polyslo check {file}` lists all"
        rest = f" (and {more} more{hint})" if more else ""
        super().__init__(mistakes[0] + rest)


@dataclass(frozen=True, slots=True)
class Table:
    """A table that becomes a `cls`."""

    cls: type

    @property
    def allowed(self) -> str:
        """Say that it is a table."""
        return "a table"

    def read(self, value: Any, path: str, mistakes: Mistakes) -> Any:
        """Read its keys."""
        return read_table(self.cls, value, path, mistakes)


@dataclass(frozen=True, slots=True)
class NamedTables:
    """Tables by name, `[classes.chat]`; each becomes a `cls` with its name."""

    cls: type
    noun: str

    @property
    def allowed(self) -> str:
        """Say how they are written."""
        return "tables by name"

    def read(self, value: Any, path: str, mistakes: Mistakes) -> Any:
        """Return a tuple, in the order of the file."""
        if not isinstance(value, dict):
            return mistakes.add(path, f"must be {self.allowed}, got {told(value)}", f"write [{path}.{self.noun}]")
        read = []
        for name, table in value.items():
            if not re.fullmatch(r"[\w.:/@-]{1,128}", name):
                allowed = "a name of 1 to 128 letters, digits and . : / @ _ -"
                read.append(mistakes.add(path, f"must be {allowed}, got {name!r}", f"rename it in {mistakes.file}"))
            else:
                read.append(read_table(self.cls, table, f"{path}.{name}", mistakes, name=name))
        return FAILED if FAILED in read else tuple(read)


@dataclass(frozen=True, slots=True)
class Tables:
    """A list of tables, `[[models]]`."""

    cls: type

    @property
    def allowed(self) -> str:
        """Say that they are many."""
        return "a list of tables"

    def read(self, value: Any, path: str, mistakes: Mistakes) -> Any:
        """Return a tuple, in the order of the file."""
        if not isinstance(value, list):
            return mistakes.add(path, f"must be {self.allowed}, got {told(value)}", f"write [[{path}]]")
        read = [read_table(self.cls, table, f"{path}[{index}]", mistakes) for index, table in enumerate(value)]
        return FAILED if FAILED in read else tuple(read)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a field of a configuration class says of its key."""

    kind: Kind
    meaning: str


def setting(kind: Kind, meaning: str, default: Any = MISSING) -> Any:
    """Declare a key of a configuration class; without a default it must be given. Secrets stay out of its repr."""
    if isinstance(kind, Table):  # a table that is not given is one without keys
        default = kind.cls()
    return field(default=default, repr=not isinstance(kind, Secret), metadata={"setting": Setting(kind, meaning)})


def settings_of(cls: type) -> Iterator[tuple[Field[Any], Setting]]:
    """Yield the fields of a configuration class that are keys, in order."""
    for entry in fields(cls):
        if "setting" in entry.metadata:
            yield entry, entry.metadata["setting"]


def read_table(cls: type, table: Any, path: str, mistakes: Mistakes, **given: Any) -> Any:
    """Return `cls` from a table, or complain of everything that is wrong with it and return `FAILED`.

    `given` are the fields that are no keys, such as a name.
    """
    if not isinstance(table, dict):
        return mistakes.add(path, f"must be a table, got {told(table)}", f"write [{path}] in {mistakes.file}")
    num_found = len(mistakes.found)
    values = read_values(cls, table, path, mistakes)
    return cls(**values, **given) if len(mistakes.found) == num_found else FAILED


def read_values(cls: type, table: dict[str, Any], path: str, mistakes: Mistakes) -> dict[str, Any]:
    """Return the values of a table's keys, `FAILED` where there was a complaint."""
    known = {entry.name: (entry, declared) for entry, declared in settings_of(cls)}
    for key in table:
        if key not in known:
            mistakes.unknown(key, list(known), path)
    values: dict[str, Any] = {}
    for key, (entry, declared) in known.items():
        place = f"{path}.{key}" if path else key
        if key in table:
            values[key] = declared.kind.read(table[key], place, mistakes)
        elif entry.default is MISSING:
            values[key] = mistakes.wrong(place, declared.kind.allowed, None)
    return values
