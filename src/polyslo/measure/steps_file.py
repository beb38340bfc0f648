"""An engine's own log of its steps, as polyslo's scheduler plug-in for vLLM writes it: JSON, one step a line.

    {"t": 12.5, "decodes": 31, "chunk": 480, "kv": 40120, "context": 2300.0, "step_s": 0.0183}

`decodes` requests with `kv` KV tokens in all got a token, beside `chunk` prompt tokens that attended to `context`
tokens each on average (for one prompt: those before the chunk plus half of the chunk).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from polyslo.errors import InputError

COLUMNS = ("t", "decodes", "chunk", "kv", "context", "step_s")
MIN_STEPS = 200
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps in the order of time; each an array of shape (n,)."""

    decodes: FloatArray
    chunk: FloatArray
    kv_tokens: FloatArray
    context: FloatArray
    step_s: FloatArray

    def __len__(self) -> int:
        return len(self.step_s)

    def where(self, chosen: npt.NDArray[np.bool_]) -> Steps:
        """Return the chosen steps."""
        return Steps(*(getattr(self, name)[chosen] for name in self.__slots__))


def read_steps(file: str) -> Steps:
    """Read a log. The last line may be cut short; any other that is no step is an error that names the line.

    Steps that did nothing are left out. Raises `InputError`.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: can't be read, {error}; check the path") from error
    rows = []
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if row is None and number < len(lines):
            raise InputError(
                f"{file}:{number}: must be an object with finite numbers >= 0 {', '.join(COLUMNS)}; drop it"
            )
        if row is not None and row[1] + row[2] > 0 and row[5] > 0:
            rows.append(row)
    if len(rows) < MIN_STEPS:
        raise InputError(f"{file}: has {len(rows)} steps, at least {MIN_STEPS} are needed; let the engine work longer")
    table = np.array(sorted(rows))
    return Steps(*(table[:, column] for column in range(1, 6)))


def _row(line: str) -> tuple[float, ...] | None:
    try:
        step = json.loads(line)
        row = tuple(float(step[column]) for column in COLUMNS)
    except (ValueError, TypeError, KeyError):
        return None
    return row if all(np.isfinite(row)) and min(row) >= 0 else None
