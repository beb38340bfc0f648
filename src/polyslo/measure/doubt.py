"""Which tasks of a measurement are measured once more: those whose points spread, or fall where no engine's do.

What disturbs an engine makes it slower, never faster: of two times of the same point the lesser is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

FALL_RATIO = 0.05
SPREAD_RATIO = 0.10
Found = dict[str, list[list[float]]]
# Columns that name a point within its task, by kind; the context of a batch differs a little from time to time.
_NAMES = {"decode": (0,), "prefill": (0, 1), "mixed": (0, 1)}


def doubtful_tasks(done: Mapping[str, Found]) -> set[str]:
    """Return the tasks whose points should be measured again."""
    spread = {task for task, found in done.items() for rows in found.values() for row in rows if row[-1] > SPREAD_RATIO}
    return spread | set(_falling(done, "decode")) | set(_falling(done, "prefill"))


def lesser(first: Found, again: Found) -> Found:
    """Return each point with the lesser of its two times."""
    return {kind: _lesser_rows(kind, rows, again.get(kind, [])) for kind, rows in first.items()}


def _lesser_rows(kind: str, rows: list[list[float]], again: list[list[float]]) -> list[list[float]]:
    others = {tuple(row[column] for column in _NAMES[kind]): row for row in again}
    return [
        min(row, others.get(tuple(row[column] for column in _NAMES[kind]), row), key=lambda row: row[-2])
        for row in rows
    ]


def _falling(done: Mapping[str, Found], kind: str) -> Iterator[str]:
    """Yield the tasks of points that are faster than a smaller one, and of those smaller ones."""
    points = [(row, task) for task, found in done.items() for row in found.get(kind, ())]
    for axis in (0, 1):
        lines: dict[object, list[tuple[list[float], str]]] = {}
        for row, task in points:
            # Batches of one task were prefilled alike; along the other axis it is the same batch, chunk or prefix.
            line = task if kind == "decode" and axis == 0 else row[1 - axis]
            lines.setdefault(line, []).append((row, task))
        for line_points in lines.values():
            highest_ms, highest = 0.0, ""
            for row, task in sorted(line_points, key=lambda point: point[0][axis]):
                if row[-2] < (1 - FALL_RATIO) * highest_ms:
                    yield from (task, highest)
                if row[-2] > highest_ms:
                    highest_ms, highest = row[-2], task
