"""What a sweep has already found, on disk: a line a unit of work, so that a sweep that was stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from polyslo.claims.machine import Machine
from polyslo.claims.work import Answer, Found, Misses, Outcome, Unit
from polyslo.compiled import fingerprint
from polyslo.errors import ConfigError
from polyslo.report.data import plain, read

KINDS: dict[str, type[Found] | type[Outcome] | type[Misses]] = {"found": Found, "outcome": Outcome, "misses": Misses}


class Store:
    """Answers by unit, in a file that belongs to one state of the simulator's source."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / f"claims-{fingerprint('polyslo.claims.work')}.jsonl"
        self._answers: dict[str, Answer] = {}
        self._machines: list[Machine] = []
        self.took_s = 0.0  # spent on all answers that it holds, in whatever sittings
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        except OSError as error:
            raise ConfigError(f"{folder}: can't keep results there, {error.strerror}; name another --state") from error
        for line in lines:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line that was being written when the sweep was stopped
            if "machine" in entry:
                self._machines.append(read(Machine, entry["machine"], str(self._file)))
                continue
            self.took_s += entry.get("took_s", 0.0)
            self._answers[entry["unit"]] = read(KINDS[entry["kind"]], entry["answer"], str(self._file))

    def get(self, unit: Unit) -> Answer | None:
        """Return what was found for an equal unit, if anything was."""
        return self._answers.get(repr(unit))

    def put(self, unit: Unit, answer: Answer, took_s: float = 0.0) -> None:
        """Keep an answer, in memory and on disk, with the time since the one before it."""
        self._answers[repr(unit)] = answer
        self.took_s += took_s
        entry = {
            "unit": repr(unit),
            "kind": next(name for name, kind in KINDS.items() if isinstance(answer, kind)),
            "took_s": round(took_s, 3),
            "answer": plain(answer),
        }
        self._append(entry)

    @property
    def machines(self) -> tuple[Machine, ...]:
        """Return the machines that found the answers, in whatever sittings."""
        return tuple(self._machines)

    def note(self, machines: Iterable[Machine]) -> None:
        """Keep which machines find the answers that follow."""
        for machine in machines:
            if machine not in self._machines:
                self._machines.append(machine)
                self._append({"machine": plain(machine)})

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, separators=(",", ":"))
        with self._file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
