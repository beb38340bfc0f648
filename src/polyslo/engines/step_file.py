"""Facts of each step that an engine has taken, one JSON line each, for `polyslo profile` and whoever asks why.

    {"t": 1790000000.123, "decodes": 12, "chunk": 512, "kv": 18311, "context": 256.0, "step_s": 0.0241}

`t` is the wall time of the step's end, `kv` the KV tokens that the decodes held when it began, `context` how many
tokens each prompt token attended to on average: the arguments and the value of a profile's `iteration_s`.
The file is bounded: at its limit it becomes `FILE.1`, in place of the one before.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What one step carried, as in a profile's `iteration_s`."""

    decodes: int
    chunk: int
    kv_tokens: int
    context: float

    def line(self, ended_at: float, step_s: float) -> bytes:
        """Return the step as a line; `ended_at` is wall time."""
        return b'{"t":%.6f,"decodes":%d,"chunk":%d,"kv":%d,"context":%.1f,"step_s":%.6f}\n' % (
            ended_at, self.decodes, self.chunk, self.kv_tokens, self.context, step_s,
        )  # fmt: skip


class StepFile:
    """A bounded file of steps. A disk that fails ends the recording, never the engine."""

    def __init__(self, path: str, max_bytes: int, complain: Callable[[str], None]) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._complain = complain
        self._descriptor: int | None = None
        self._size = 0
        self._open()

    def write(self, line: bytes) -> None:
        """Append a line; whole, whoever else appends."""
        if self._descriptor is None:
            return
        try:
            if self._size + len(line) > self._max_bytes:
                self.close()
                os.replace(self._path, f"{self._path}.1")
                self._open()
            if self._descriptor is not None:
                self._size += os.write(self._descriptor, line)
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> None:
        try:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self._size = os.fstat(self._descriptor).st_size
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.close()
        self._complain(f"{self._path}: steps are not recorded any more, {error.strerror}; check the disk")
