"""Holes in a profile's points: what its grid says was measured and is not there. Ours.

A grid has two axes, batches and contexts or chunks and prefixes. Every value of an axis that the file states (`grid`)
must occur, and so must every crossing of two values that a point lies beyond, along both axes: large batches end at
shorter contexts, where memory ends, and that is no hole. An axis that is not stated is taken as it is found, and decode
points are held to its crossings if they have nearly all of them: those of a live engine lie on no grid, for contexts
grow while a batch is measured. Prefill points are then held to nothing: they are fitted by least squares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from polyslo.errors import ProfileError, nearest

FloatArray = npt.NDArray[np.float64]
Axis = tuple[float, ...]

AXES = {"decode": ("decodes", "context"), "prefill": ("chunk", "prefix")}
KEYS = {"decode": ("decodes", "contexts"), "prefill": ("chunks", "prefixes")}
SCATTERED_RATIO = 0.25  # of the crossings: where more are missing, there is no grid


def grid_of(content: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the axes that a profile's file states; the second of a kind where no crossing is missing."""
    grid: dict[str, list[float]] = {}
    for kind, columns in AXES.items():
        rows = np.array([[row[column] for column in columns] for row in content[kind]])
        first, second = (np.unique(rows[:, column]) for column in (0, 1))
        grid[KEYS[kind][0]] = first.tolist()
        if not _missing(rows, tuple(first), tuple(second)):
            grid[KEYS[kind][1]] = second.tolist()
    return grid


def stated_axes(data: Mapping[str, Any], where: str) -> dict[str, Axis]:
    """Read `grid` of a profile's file, which need not be there; raises `ProfileError` for anything but numbers."""
    grid = data.get("grid", {})
    allowed = [key for keys in KEYS.values() for key in keys]
    if not isinstance(grid, Mapping):
        raise ProfileError(f"{where}: 'grid' must be an object with lists of numbers, got {grid!r:.40}; correct it")
    for key, values in grid.items():
        if key not in allowed:
            raise ProfileError(f"{where}: grid: unknown key {key!r}{nearest(key, allowed)}")
        if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
            raise ProfileError(f"{where}: grid.{key} must be a list of numbers, got {values!r:.40}; correct it")
    return {key: tuple(float(value) for value in values) for key, values in grid.items()}


def reject_holes(points: FloatArray, kind: str, stated: Mapping[str, Axis], where: str) -> None:
    """Raise `ProfileError` naming what is missing of a kind's points, of shape (P, 2 or more): axes, then the time."""
    for column, (axis, key) in enumerate(zip(AXES[kind], KEYS[kind], strict=True)):
        lacking = sorted(set(stated.get(key, ())) - set(points[:, column].tolist()))
        if lacking:
            raise ProfileError(
                f"{where}: {kind!r} has no point of {axis}={_listed(lacking)}, grid.{key} has; a profile with holes "
                f"can't be trusted: measure these points again, or take them out of grid.{key}"
            )
    first, second = (stated.get(key) or _found(points, column) for column, key in enumerate(KEYS[kind]))
    missing, needed = _missing(points, first, second), _num_needed(points, first, second)
    is_stated = KEYS[kind][1] in stated
    if missing and (is_stated or (kind == "decode" and len(missing) < SCATTERED_RATIO * needed)):
        places = [f"{AXES[kind][0]}={a:g}, {AXES[kind][1]}={b:g}" for a, b in missing]
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        raise ProfileError(
            f"{where}: {kind!r} has no point at {places[0]}{more}, between points that it has; a profile with holes "
            "can't be trusted: measure these points again"
        )


def _found(points: FloatArray, column: int) -> Axis:
    return tuple(np.unique(points[:, column]).tolist())


def _needed(points: FloatArray, first: Sequence[float], second: Sequence[float]) -> Iterable[tuple[float, float]]:
    """Yield the crossings that some point lies at or beyond, along both axes."""
    for b in second:
        reach = points[points[:, 1] >= b, 0].max(initial=0)
        yield from ((a, b) for a in first if a <= reach)


def _missing(points: FloatArray, first: Sequence[float], second: Sequence[float]) -> list[tuple[float, float]]:
    have = {(a, b) for a, b in points[:, :2].tolist()}
    return sorted(crossing for crossing in _needed(points, first, second) if crossing not in have)


def _num_needed(points: FloatArray, first: Sequence[float], second: Sequence[float]) -> int:
    return sum(1 for _ in _needed(points, first, second))


def _listed(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:4])
    return shown if len(values) <= 4 else f"{shown} and {len(values) - 4} more"
