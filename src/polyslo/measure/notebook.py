"""What was measured so far, in a file: a run that was stopped goes on where it was.

JSON lines: the head says what is measured, each further line is one finished task. A line that a crash cut short is
dropped; a file of another plan is refused, not mixed in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyslo.errors import InputError

SCHEMA = "polyslo.measure/1"


class Notebook:
    """Finished tasks by name; each is a JSON value."""

    def __init__(self, file: Path, head: Mapping[str, Any], *, restart: bool = False) -> None:
        self._file = file
        self._head = {"schema": SCHEMA, **head}
        self.done: dict[str, Any] = {}
        if restart or not file.exists():
            self._begin()
        else:
            self._read()

    def write(self, task: str, found: Any) -> None:
        """Keep a task's result."""
        self.done[task] = found
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"task": task, "found": found}) + "\n")

    def discard(self) -> None:
        """Remove the file: the profile is written."""
        self._file.unlink(missing_ok=True)

    def _begin(self) -> None:
        try:
            self._file.write_text(json.dumps(self._head) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{self._file}: can't be written, {error.strerror}; name another --output") from error

    def _read(self) -> None:
        text = self._file.read_text(encoding="utf-8")
        lines = [_parsed(line) for line in text.splitlines()]
        if not lines or lines[0] != self._head:
            raise InputError(
                f"{self._file}: holds another measurement, {_difference(lines[:1], self._head)}; give the same "
                "options, or --restart to measure anew"
            )
        for line in lines[1:]:
            if line is not None:
                self.done[line["task"]] = line["found"]
        if lines[-1] is None or not text.endswith("\n"):
            whole = [json.dumps(line) + "\n" for line in lines if line is not None]
            self._file.write_text("".join(whole), encoding="utf-8")


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _difference(found: list[Any], wanted: Mapping[str, Any]) -> str:
    if not found or not isinstance(found[0], dict):
        return "or none"
    for key, value in wanted.items():
        if found[0].get(key) != value:
            return f"with {key} {found[0].get(key)!r} instead of {value!r}"
    return "with other options"
