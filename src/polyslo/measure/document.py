"""From a finished notebook to a profile's file: points, what they were measured of, and how far they are trusted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from polyslo.measure.noise import Noise
from polyslo.measure.plan import AGAIN

_KINDS = {
    "decode": ("decodes", "context", "ms"),
    "prefill": ("chunk", "prefix", "ms"),
    "mixed": ("chunk", "decodes", "context", "ms"),
}


def measured_content(done: Mapping[str, Any], facts: Mapping[str, Any], *, speed: float = 1.0) -> dict[str, Any]:
    """Return the content of a profile's file. `speed` is that of an emulated engine: times are scaled back by it."""
    rows = {kind: _rows(done, kind) for kind in _KINDS}
    rows["decode"] = _lines_of_two(rows["decode"])
    return {
        **facts,
        "measured_on": time.strftime("%Y-%m-%d", time.gmtime()),
        "noise": dict(noise_of(done).facts),
        **{kind: _points(kind, rows[kind], speed) for kind in _KINDS},
    }


def noise_of(done: Mapping[str, Any]) -> Noise:
    """Judge a notebook."""
    spreads = [row[-1] for kind in _KINDS for row in _rows(done, kind)]
    return Noise.of(spreads, list(_pairs(done)))


def _rows(done: Mapping[str, Any], kind: str) -> list[list[float]]:
    """Return rows (..., ms, spread) of a kind; what was measured a second time is for the noise only."""
    tasks = (found for name, found in done.items() if isinstance(found, dict) and not name.startswith(AGAIN))
    return [row for found in tasks for row in found.get(kind, ())]


def _lines_of_two(rows: Sequence[list[float]]) -> list[list[float]]:
    """Leave out batches that were measured at one context only: nothing tells how their time grows with KV."""
    count = Counter(int(row[0]) for row in rows)
    return [row for row in rows if count[int(row[0])] > 1]


def _pairs(done: Mapping[str, Any]) -> Iterable[tuple[float, float]]:
    for name, again in done.items():
        if name.startswith(AGAIN):
            for kind in _KINDS:
                first = done[name.removeprefix(AGAIN)].get(kind, ())
                for before, after in zip(first, again.get(kind, ()), strict=False):
                    yield before[-2], after[-2]


def _points(kind: str, rows: Sequence[Sequence[float]], speed: float) -> list[dict[str, float]]:
    """Return points; those of the same place become one, their median."""
    columns = _KINDS[kind]
    at: dict[tuple[int, ...], list[float]] = {}
    for row in rows:
        at.setdefault(tuple(int(value) for value in row[: len(columns) - 1]), []).append(row[len(columns) - 1])
    return [
        dict(zip(columns, (*place, round(speed * float(np.median(times)), 4)), strict=True))
        for place, times in sorted(at.items())
    ]
