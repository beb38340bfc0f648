"""What a key of the configuration may hold, and the mistakes that are collected while it is read. Source: ours."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from polyslo.errors import nearest

FAILED = object()  # what a kind returns for a value that it has complained about


class Mistakes:
    """The mistakes of one configuration. `flags` names the keys that the command line set: `server.port: --port`."""

    def __init__(self, file: str, flags: Mapping[str, str] | None = None) -> None:
        self.file = file
        self.found: list[str] = []
        self._flags = flags or {}

    def wrong(self, path: str, allowed: str, got: Any) -> object:
        """Note a value that is not what is allowed."""
        return self.add(path, f"must be {allowed}, got {'nothing' if got is None else told(got)}")

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

    def unknown_name(self, path: str, noun: str, got: str, names: list[str]) -> None:
        """Note a name of something that is not there, with the nearest that is."""
        self.found.append(f"{path} in {self.file}: no {noun} {got!r}{nearest(got, names)}")


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


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"


def told(value: Any) -> str:
    """Return a value for a message: short, whatever was written."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
