"""Files that are read again while the gateway runs: once a second they are looked at, and at once on SIGHUP.

Whether a file changed is told by its content, which costs little (files are small) and misses nothing: two writes
can have the same size and the same time. What a file says is applied as a whole or, with a mistake in it, not at
all; either is logged and counted once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from polyslo.errors import ConfigError
from polyslo.gateway.config.table import MistakenConfigError

PERIOD_S = 1.0
APPLIED, INVALID = "applied", "invalid"

log = logging.getLogger("polyslo")


@dataclass(slots=True)
class Source:
    """A file and what becomes of it: `apply` reads it, and returns what changed, in words, or raises `ConfigError`."""

    what: str  # as metrics and logs call it
    path: str
    apply: Callable[[], Sequence[str]]
    digest: bytes | None = None  # of what was applied, or tried to be
    num_applied: int = 0
    num_invalid: int = 0
    is_valid: bool = True


class Reloads:
    """Looks at files and applies what they say; also a collector of metrics about that."""

    def __init__(self, sources: Sequence[Source], period_s: float = PERIOD_S) -> None:
        self._sources = sources
        self._period_s = period_s
        self._task: asyncio.Task[None] | None = None
        self._is_asked = asyncio.Event()

    def start(self) -> None:
        """Look from now on; what changed since the files were first read is applied at once."""
        if self._sources:
            self._task = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def ask(self) -> None:
        """Read all files now, changed or not: what SIGHUP does."""
        self._is_asked.set()

    async def look(self, *, always: bool = False) -> None:
        """Apply the files that changed since they were looked at, or all."""
        for source in self._sources:
            digest = await asyncio.to_thread(_digest, source.path)
            if always or digest != source.digest:
                source.digest = digest
                self._apply(source)

    def collect(self) -> Iterable[Metric]:
        """Tell how often files were applied, and whether what is in them now is."""
        loads = CounterMetricFamily("polyslo_reload", "Files read again.", labels=["file", "outcome"])
        valid = GaugeMetricFamily("polyslo_reload_valid", "Whether a file as it is now is applied.", labels=["file"])
        for source in self._sources:
            loads.add_metric([source.what, APPLIED], source.num_applied)
            loads.add_metric([source.what, INVALID], source.num_invalid)
            valid.add_metric([source.what], float(source.is_valid))
        return loads, valid

    async def _watch(self) -> None:
        always = False
        while True:
            await self.look(always=always)
            try:
                async with asyncio.timeout(self._period_s):
                    await self._is_asked.wait()
                always = True
                self._is_asked.clear()
            except TimeoutError:
                always = False

    def _apply(self, source: Source) -> None:
        try:
            changes = source.apply()
        except ConfigError as error:
            source.num_invalid += 1
            source.is_valid = False
            for mistake in error.mistakes if isinstance(error, MistakenConfigError) else (str(error),):
                log.error("%s: %s", source.what, mistake)
            log.error("%s: %s is not applied, everything stays as it was", source.what, source.path)
            return
        source.num_applied += 1
        source.is_valid = True
        if changes:
            log.info("%s: %s was read again: %s", source.what, source.path, "; ".join(changes))


def _digest(path: str) -> bytes:
    """Return a digest of a file's content; that of nothing where it can't be read."""
    try:
        return sha256(Path(path).read_bytes()).digest()
    except OSError:
        return b""
