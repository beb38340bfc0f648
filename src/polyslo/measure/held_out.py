"""The error that is told of a measured profile: of points that it was not made from.

Mixed iterations are in no fit. Of decode and prefill points each inner one is left out in turn and foreseen by the
profile of all others: that is the error between the points of the grid, an upper bound of it, for the grid has the
point in the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from polyslo.core.measured import MeasuredPoints, build_profile, residuals
from polyslo.profiles.library import NamedProfile

FloatArray = npt.NDArray[np.float64]


def held_out_errors(named: NamedProfile) -> dict[str, FloatArray]:
    """Return (predicted - measured) / measured by kind; kinds without such points are missing."""
    points = named.points
    found = {
        "decode, each point left out": _left_out(points, points.decode, (0, 1), "decode"),
        "prefill, each point left out": _left_out(points, points.prefill, (0, 1), "prefill"),
        "mixed, in no fit": residuals(named.profile, points)["mixed"],
    }
    return {kind: errors for kind, errors in found.items() if len(errors)}


def error_facts(errors: dict[str, FloatArray]) -> dict[str, Any]:
    """Return the errors for the profile's file."""
    return {
        kind: {"mean": round(float(np.abs(e).mean()), 4), "worst": round(float(np.abs(e).max()), 4), "points": len(e)}
        for kind, e in errors.items()
    }


def _left_out(points: MeasuredPoints, table: FloatArray, axes: tuple[int, int], kind: str) -> FloatArray:
    """Foresee each inner point (not the first or last of its line along either axis) from all others."""
    errors = []
    for index in range(len(table)):
        if not all(_is_inner(table, index, axis, 1 - axis) for axis in axes[1:]):
            continue
        rest = np.delete(table, index, axis=0)
        tables = {"decode": points.decode, "prefill": points.prefill, "mixed": points.mixed} | {kind: rest}
        profile = build_profile(MeasuredPoints(**tables), kv_capacity_tokens=1, kv_bytes_per_token=1.0)
        first, second, ms = table[index]
        foreseen_s = (
            profile.iteration_s(int(first), 0, first * second, 0.0)
            if kind == "decode"
            else profile.iteration_s(0, int(first), 0.0, second + first / 2)
        )
        errors.append(foreseen_s * 1e3 / ms - 1.0)
    return np.array(errors)


def _is_inner(table: FloatArray, index: int, axis: int, fixed: int) -> bool:
    line = table[table[:, fixed] == table[index, fixed]][:, axis]
    return bool(line.min() < table[index, axis] < line.max())
