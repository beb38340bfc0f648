"""Many units of work at once, in processes of this machine or wherever `Workers` are; answers are kept as they come."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, Protocol

from polyslo.claims.machine import Machine, this_machine
from polyslo.claims.store import Store
from polyslo.claims.work import Answer, Unit, do

Progress = Callable[[str, int, int], None]  # stage, units done, units in all


class Workers(Protocol):
    """Whoever does units of work."""

    def answers(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Answer]]:
        """Do all units, in any order; give each with its answer as soon as it is there."""

    def machines(self) -> list[Machine]:
        """Describe the machines that do them."""

    def close(self) -> None:
        """Let go of processes."""


class LocalProcesses:
    """A process for every core."""

    def __init__(self, count: int | None = None) -> None:
        context = get_context("spawn")
        self._pool = ProcessPoolExecutor(count or os.cpu_count(), mp_context=context, initializer=_end_with_parent)

    def answers(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Answer]]:
        """See `Workers`."""
        futures = {self._pool.submit(do, unit): unit for unit in units}
        for future in as_completed(futures):
            yield futures[future], future.result()

    def machines(self) -> list[Machine]:
        """See `Workers`."""
        return [this_machine()]

    def close(self) -> None:
        """See `Workers`."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, even if that was killed."""
    Thread(target=_outlive_no_parent, daemon=True).start()


def _outlive_no_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Sweep:
    """Does what has not been done before and keeps it."""

    def __init__(self, store: Store, workers: Workers, progress: Progress | None = None) -> None:
        self._store, self._workers, self._progress = store, workers, progress
        self._noted = False  # whose machines they are

    def do(self, stage: str, units: Sequence[Unit]) -> list[Any]:
        """Return the answers to units, in their order."""
        unique = list(dict.fromkeys(units))
        missing = [unit for unit in unique if self._store.get(unit) is None]
        if missing and not self._noted:
            self._store.note(self._workers.machines())
            self._noted = True
        self._tell(stage, len(unique) - len(missing), len(unique))
        before_s = time.monotonic()
        for done, (unit, answer) in enumerate(self._workers.answers(missing), start=len(unique) - len(missing) + 1):
            now_s = time.monotonic()
            self._store.put(unit, answer, now_s - before_s)
            before_s = now_s
            self._tell(stage, done, len(unique))
        return [self._store.get(unit) for unit in units]

    def has(self, units: Sequence[Unit]) -> bool:
        """Tell whether all units are done."""
        return all(self._store.get(unit) is not None for unit in units)

    @property
    def machines(self) -> tuple[Machine, ...]:
        """The machines that found the answers, over all sittings."""
        return self._store.machines

    @property
    def took_s(self) -> float:
        """Seconds spent on all answers so far, over all sittings."""
        return self._store.took_s

    def _tell(self, stage: str, done: int, total: int) -> None:
        if self._progress:
            self._progress(stage, done, total)
