"""One engine process on this machine, behind its guard: started, waited for, stopped, its words in a file."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from polyslo.fleets import guard

STOP_GRACE_S = 15.0  # for an engine to end by itself when asked
LAST_WORDS_BYTES = 2048


class Process(Protocol):
    """What is needed of a running engine."""

    async def ended(self) -> int:
        """Wait until it has ended; return its exit status."""

    async def stop(self) -> None:
        """End it with everything that it started."""


class EngineProcess:
    """A command in a process group of its own, which ends with polyslo whatever happens. See `guard.py`."""

    def __init__(self, process: asyncio.subprocess.Process, grace_s: float) -> None:
        self._process = process
        self._grace_s = grace_s

    @classmethod
    async def start(
        cls, command: Sequence[str], env: Mapping[str, str], log_file: Path, *, grace_s: float = STOP_GRACE_S
    ) -> EngineProcess:
        """Start it; its output is appended to `log_file`."""
        with log_file.open("ab") as log:
            log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command)}\n".encode())
            log.flush()
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                guard.__file__,
                str(grace_s),
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **env},
                start_new_session=True,
            )
        return cls(process, grace_s)

    async def ended(self) -> int:
        """See `Process`."""
        return await self._process.wait()

    async def stop(self) -> None:
        """See `Process`."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(2 * self._grace_s + 5.0):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()  # the kernel ends the engine with its guard
            await self._process.wait()


def last_words(log_file: Path) -> str:
    """Return the last line that an engine said."""
    try:
        with log_file.open("rb") as log:
            log.seek(max(0, log_file.stat().st_size - LAST_WORDS_BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return "nothing"
    said = [line.strip() for line in lines if line.strip() and not line.startswith("--- ")]
    return said[-1] if said else "nothing"
