"""What engines say of themselves, held against what is believed of them; a lasting difference is acted on.

An engine that serves others' requests too, or that has not let go of ours, has less room than is believed. What it
holds beyond ours in each of the last `WINDOW` readings is taken off the KV capacity and the places that decisions
reckon with; it comes back with the readings. Readings and belief are of slightly different moments, so one reading says
little; the least of several is what was there all the time. Its cost in iteration time is learned from streams
(`core.slowness`). What we have and the engine has not is shown only: each of our requests has a stream that will end.

Where no capacity is configured, the engine's own is believed. Source: ours.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polyslo.gateway.belief.engine_metrics import EngineLoad

if TYPE_CHECKING:
    from polyslo.gateway.served_model import ServedModel

WINDOW = 5  # readings
KV_STEP_RATIO = 0.02  # of the capacity: smaller changes of what is not ours change nothing
LEAST_ROOM_RATIO = 0.05  # of capacity and places: so much is believed to be left, whatever an engine says
BLOCK_TOKENS = 16  # engines hand out KV in blocks: on average half of one is empty for each request


@dataclass(slots=True)
class Reading:
    """What is known of one engine from itself."""

    told: EngineLoad | None = None  # the last
    kv_capacity_tokens: int = 0  # of the engine, all of it
    max_residents: int = 0
    foreign_kv_tokens: int = 0  # that are not ours, as acted on
    foreign_requests: int = 0
    _beyond: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=WINDOW))  # KV tokens, requests

    def add(self, load: EngineLoad, own_kv_tokens: int, own_requests: int) -> tuple[int, int]:
        """Take in a reading; return what was not ours in all of the last ones: (KV tokens, requests)."""
        self.told = load
        rounded = own_kv_tokens + BLOCK_TOKENS * own_requests
        kv_tokens = 0 if load.kv_tokens is None else load.kv_tokens - rounded
        self._beyond.append((kv_tokens, load.num_requests - own_requests))
        if len(self._beyond) < WINDOW:
            return self.foreign_kv_tokens, self.foreign_requests
        return max(0, min(kv for kv, _ in self._beyond)), max(0, min(count for _, count in self._beyond))


class Reconciliation:
    """Holds one model's engines against what is believed of them."""

    def __init__(self, model: ServedModel, *, takes_capacity: bool) -> None:
        """`takes_capacity`: believe the capacity that engines tell."""
        self._model = model
        self._takes_capacity = takes_capacity
        self._of: dict[int, Reading] = {}

    def of(self, i: int) -> Reading:
        """Return what is known of an instance's engine."""
        if i not in self._of:
            record = self._model.fleet.instances[i]
            self._of[i] = Reading(
                kv_capacity_tokens=int(record["kv_capacity_tokens"]), max_residents=int(record["max_residents"])
            )
        return self._of[i]

    def forget(self, i: int) -> None:
        """An instance is gone: another engine may come in its place."""
        reading = self._of.pop(i, None)
        if reading is not None:
            self._model.resize(i, reading.kv_capacity_tokens, reading.max_residents)

    def read(self, i: int, load: EngineLoad) -> None:
        """Take in what an engine says, and act on it."""
        reading, record = self.of(i), self._model.fleet.instances[i]
        capacity = reading.kv_capacity_tokens
        if self._takes_capacity and load.kv_capacity_tokens is not None:
            capacity = load.kv_capacity_tokens
        kv_tokens, requests = reading.add(load, int(record["kv_tokens"]), len(self._model.instances[i].running))
        moved = abs(kv_tokens - reading.foreign_kv_tokens)
        if moved <= KV_STEP_RATIO * capacity and (kv_tokens > 0 or reading.foreign_kv_tokens == 0):
            kv_tokens = reading.foreign_kv_tokens
        before = reading.kv_capacity_tokens, reading.foreign_kv_tokens, reading.foreign_requests
        if (capacity, kv_tokens, requests) == before:
            return
        reading.kv_capacity_tokens, reading.foreign_kv_tokens, reading.foreign_requests = capacity, kv_tokens, requests
        self._model.resize(i, _left(capacity, kv_tokens), _left(reading.max_residents, requests))
        self._model.kv_capacity_tokens = min(self.of(one.index).kv_capacity_tokens for one in self._model.instances)


def _left(total: int, taken: int) -> int:
    return max(1, round(LEAST_ROOM_RATIO * total), total - taken)
