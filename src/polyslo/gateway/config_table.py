"""How a TOML table becomes a frozen dataclass: every mistake is collected, none hides the next.

A configuration class states each key once, as a dataclass field with a kind, its meaning and its default; reading,
checking and the reference in docs/gateway-config.md all follow from that. Source: ours. What is allowed between
keys is the business of the classes: see `GatewayConfig`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Protocol

from polyslo.errors import ConfigError, nearest

FAILED = object()  # what a kind returns for a value that it has complained about


class MistakenConfigError(ConfigError):
    """A configuration has mistakes; `mistakes` are all of them, a line each, and the text is the first."""

    def __init__(self, mistakes: tuple[str, ...], file: str) -> None:
        self.mistakes = mistakes
        more = len(mistakes) - 1
        rest = f" (and {more} more: `polyslo check {file}` lists all)" if more else ""
        super().__init__(mistakes[0] + rest)


class Mistakes:
    """The mistakes of one configuration. `flags` names the keys that the command line set: `server.port: --port`."""

    def __init__(self, file: str, flags: Mapping[str, str] | None = None) -> None:
        self.file = file
        self.found: list[str] = []
        self._flags = flags or {}

    def wrong(self, path: str, allowed: str, got: Any) -> object:
        """Note a value that is not what is allowed."""
        told = "nothing" if got is None else _shown(got)
        return self.add(path, f"must be {allowed}, got {told}")

    def add(self, path: str, what: str, remedy: str = "") -> object:
        """Note what is wrong with a key, and what to do; without a remedy: where to set it."""
        flag = self._flags.get(path)
        place = flag or f"{path} in {self.file}"
        self.found.append(f"{flag or path}: {what}; {remedy or f'set {place}'}")
        return FAILED

    def unknown(self, key: str, allowed: list[str], path: str) -> None:
        """Note a key that is none, with the nearest that is."""
        place = f"{self.file}, [{path}]" if path else self.file
        self.found.append(f"{place}: unknown key {key!r}{nearest(key, allowed)}")


class Kind(Protocol):
    """What a key may hold."""

    @property
    def allowed(self) -> str:
        """Say what is allowed, as in `must be ...`."""

    def read(self, value: Any, path: str, mistakes: Mistakes) -> Any:
        """Return the value as the dataclass holds it, or complain and return `FAILED`."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text that is not empty, of a pattern where there is one."""

    allowed: str = "a text in quotes"
    pattern: str = r"(?s).+"

    def read(self, value: Any, path: str, mistakes: Mistakes) -> Any:
        """Accept a text that matches as a whole."""
        if isinstance(value, str) and re.fullmatch(self.pattern, value):
            return value
        return mistakes.wrong(path, self.allowed, value)


@dataclass(frozen=True, slots=True)
class Secret(Text):
    """A text that must not be repeated in a complaint."""

    def read(self, value: Any, path: str, mistakes: Mistakes) -> Any:
        """Accept a text that matches; a complaint says what it is, not what it holds."""
        if isinstance(value, str) and re.fullmatch(self.pattern, value):
            return value
        kind = f"a text of {len(value)} characters" if isinstance(value, str) else type(value).__name__
        got = "nothing" if value is None else f"{kind} (not shown)"
        return mistakes.add(path, f"must be {self.allowed}, got {got}")


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number, both ends included; `above_low` leaves the low end out."""

    low: float
    high: float
    above_low: bool = False

    @property
    def allowed(self) -> str:
        """Say the range."""
        low = f"above {self.low:g} and at most" if self.above_low else f"from {self.low:g} to"
        return f"a number {low} {_plain(self.high)}"

    def read(self, value: Any, path: str, mistakes: Mistakes) -> Any:
        """Accept whole numbers too; true and false are none."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if is_number and self.low <= value <= self.high and not (self.above_low and value == self.low):
            return float(value)
        return mistakes.wrong(path, self.allowed, value)


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number, both ends included."""

    low: int
    high: int

    @property
    def allowed(self) -> str:
        """Say the range."""
        return f"a whole number from {self.low} to {self.high}"

    def read(self, value: Any, path: str, mistakes: Mistakes) -> Any:
        """Accept no fractions, no text."""
        if isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high:
            return value
        return mistakes.wrong(path, self.allowed, value)


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    allowed: str = "true or false"

    def read(self, value: Any, path: str, mistakes: Mistakes) -> Any:
        """Accept the two only."""
        return value if isinstance(value, bool) else mistakes.wrong(path, self.allowed, value)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few names."""

    names: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """List the names."""
        return " or ".join(f'"{name}"' for name in self.names)

    def read(self, value: Any, path: str, mistakes: Mistakes) -> Any:
        """Accept a name of the list; anything else is told what there is."""
        return value if isinstance(value, str) and value in self.names else mistakes.wrong(path, self.allowed, value)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of one kind, with at least one entry; a single value stands for a list of it."""

    kind: Kind

    @property
    def allowed(self) -> str:
        """Say what each entry is."""
        return f"a list, each {self.kind.allowed}"

    def read(self, value: Any, path: str, mistakes: Mistakes) -> Any:
        """Return a tuple."""
        values = value if isinstance(value, list) else [value]
        if not values:
            return mistakes.wrong(path, self.allowed, value)
        read = [self.kind.read(entry, path, mistakes) for entry in values]
        return FAILED if FAILED in read else tuple(read)


@dataclass(frozen=True, slots=True)
class Texts:
    """A table of texts, such as labels. Held as sorted pairs, so that what holds it can be compared and hashed."""

    allowed: str = "a table of texts"

    def read(self, value: Any, path: str, mistakes: Mistakes) -> Any:
        """Return (key, text) pairs."""
        if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
            return tuple(sorted(value.items()))
        return mistakes.wrong(path, self.allowed, value)


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
            return mistakes.add(path, f"must be {self.allowed}, got {_shown(value)}", f"write [{path}.{self.noun}]")
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
            return mistakes.add(path, f"must be {self.allowed}, got {_shown(value)}", f"write [[{path}]]")
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
        return mistakes.add(path, f"must be a table, got {_shown(table)}", f"write [{path}] in {mistakes.file}")
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
    is_whole = FAILED not in values.values() and set(table) <= set(known)
    return cls(**values, **given) if is_whole else FAILED


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"


def _shown(value: Any) -> str:
    """Return a value for a message: short, whatever was written."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
