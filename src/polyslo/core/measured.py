"""Turn measured points into a `Profile`: check them, separate the terms, fill the tables.

Points are of three kinds: `decode` (n requests with equal context, no prefill), `prefill` (a chunk of one
prompt on a cached prefix, no decodes) and `mixed` (both; never used to build, only to check the rule that the
terms add up). Prefill attention is the slope over the prefix, matrix work is what remains, decode attention is
what a decode iteration takes beyond matrix work. Outside the measured range every table goes on along the
physics: linear in tokens, in KV, in token pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from polyslo.core.extent import Extent
from polyslo.core.point_grid import AXES, reject_holes, stated_axes
from polyslo.core.profile import PHYSICS, Profile, kv_knot
from polyslo.errors import ProfileError

FloatArray = npt.NDArray[np.float64]

NUM_KV_COLUMNS = 48  # knots up to 64 * 1.5 * 2**23 tokens: more than any instance holds
MAX_BATCH_TOKENS = 32_768
MAX_DECODES = 4_096
MOST = 10**9  # of any quantity of a point: more is a wrong unit
DIP_TOLERANCE_RATIO = 0.10  # a larger batch may measure this much faster (kernel choice); it is levelled out

_WHOLE = ("decodes", "chunk")
_FROM_0 = ("context", "prefix")
_ALLOWED = {
    "decodes": "a whole number from 1 to 10^9",
    "chunk": "a whole number from 1 to 10^9",
    "context": "a number from 0 to 10^9",
    "prefix": "a number from 0 to 10^9",
    "ms": "a finite number > 0",
}


@dataclass(frozen=True, slots=True)
class MeasuredPoints:
    """Measured iterations, times in ms: rows (decodes, context, ms), (chunk, prefix, ms) and
    (chunk, decodes, context, ms)."""

    decode: FloatArray
    prefill: FloatArray
    mixed: FloatArray

    @property
    def extent(self) -> Extent:
        """How far the points reach: iterations beyond are extrapolated."""
        return Extent(
            decodes=int(self.decode[:, 0].max()),
            kv_tokens=int((self.decode[:, 0] * self.decode[:, 1]).max()),
            chunk_tokens=int(self.prefill[:, 0].max()),
            context_tokens=int((self.prefill[:, 1] + self.prefill[:, 0] / 2).max()),
        )


def read_points(data: Mapping[str, Any], where: str) -> MeasuredPoints:
    """Check the point lists of a profile file and return them as arrays.

    Raises `ProfileError` for missing lists, holes (NaN, and points that the grid should have), points that are there
    twice, too few batches, contexts or chunks to tell how times grow, times that are not positive, and times that
    fall by more than 10% as the batch grows.
    """
    points = MeasuredPoints(
        decode=_rows(data, "decode", ("decodes", "context", "ms"), where),
        prefill=_rows(data, "prefill", ("chunk", "prefix", "ms"), where),
        mixed=_rows(data, "mixed", ("chunk", "decodes", "context", "ms"), where, required=False),
    )
    stated = stated_axes(data, where)
    for kind, table in (("decode", points.decode), ("prefill", points.prefill)):
        _reject_doubles(table, AXES[kind], where)
        reject_holes(table, kind, stated, where)
        _reject_falling(table, AXES[kind], where)
    _reject_single(points, where)
    return points


def build_profile(
    points: MeasuredPoints, *, kv_capacity_tokens: int, kv_bytes_per_token: float, host_s: float = 0.0
) -> Profile:
    """Build the tables. Exact at decode points (levelled), least squares over prefixes at prefill points."""
    pair_s = _pair_s(points.prefill)
    knots, matrix = _matrix_knots(points, pair_s)
    ends, intercepts, slopes = _pieces(knots, matrix)
    segment = np.searchsorted(ends, np.arange(MAX_BATCH_TOKENS + 1), side="left")
    rows = np.unique(points.decode[:, 0]).astype(np.int64)
    attention = _attention(points.decode, rows, knots, matrix)
    return Profile(
        segment=np.minimum(segment, len(ends) - 1).astype(np.int16),
        segment_end_tokens=ends,
        matrix_intercept_s=intercepts,
        matrix_slope_s=slopes,
        decode_row=np.maximum(np.searchsorted(rows, np.arange(MAX_DECODES + 1), side="right") - 1, 0).astype(np.int16),
        decode_knots=rows,
        attention_s=attention,
        physics=np.array([(pair_s, host_s, kv_capacity_tokens, kv_bytes_per_token)], dtype=PHYSICS),
    )


def residuals(profile: Profile, points: MeasuredPoints) -> dict[str, FloatArray]:
    """Return (predicted - measured) / measured for each kind of point, host time taken out.

    `mixed` was held out of the build: its rows are prompts as long as `context`, nothing cached, so a chunk of
    c tokens attends to min(c, context) / 2 tokens on average.
    """

    def ratio(predicted_s: float, ms: float) -> float:
        return (predicted_s - profile.physics["host_s"][0]) * 1e3 / ms - 1.0

    decode = [ratio(profile.iteration_s(int(n), 0, n * c, 0.0), ms) for n, c, ms in points.decode]
    prefill = [ratio(profile.iteration_s(0, int(c), 0.0, p + c / 2), ms) for c, p, ms in points.prefill]
    mixed = [ratio(profile.iteration_s(int(n), int(c), n * k, min(c, k) / 2), ms) for c, n, k, ms in points.mixed]
    return {"decode": np.array(decode), "prefill": np.array(prefill), "mixed": np.array(mixed)}


def _rows(
    data: Mapping[str, Any], kind: str, columns: Sequence[str], where: str, *, required: bool = True
) -> FloatArray:
    found = data.get(kind, [])
    if not isinstance(found, list) or not all(isinstance(row, Mapping) for row in found):
        raise ProfileError(f"{where}: {kind!r} must be a list of points, each with {', '.join(columns)}; correct it")
    if required and len(found) < 4:
        raise ProfileError(
            f"{where}: {kind!r} has {len(found)} points, at least 4 are needed; measure the profile again"
        )
    for index, row in enumerate(found):
        for column in columns:
            value = row.get(column)
            if not _is_usable(column, value):
                raise ProfileError(
                    f"{where}: {kind}[{index}].{column} must be {_ALLOWED[column]}, got {value!r:.40}; "
                    "a profile with holes can't be trusted: measure that point again or drop the row"
                )
    table = [[float(row[column]) for column in columns] for row in found]
    return np.array(table, dtype=np.float64).reshape(-1, len(columns))


def _is_usable(column: str, value: Any) -> bool:
    if type(value) not in (int, float) or not 0 <= value <= MOST or (column not in _FROM_0 and value == 0):
        return False
    return column not in _WHOLE or value == int(value)


def _reject_doubles(table: FloatArray, columns: tuple[str, str], where: str) -> None:
    places, counts = np.unique(table[:, :2], axis=0, return_counts=True)
    if (counts > 1).any():
        first, second = places[np.argmax(counts > 1)]
        raise ProfileError(
            f"{where}: has {counts.max()} points at {columns[0]}={first:g}, {columns[1]}={second:g}; "
            "one is allowed: drop the others"
        )


def _reject_single(points: MeasuredPoints, where: str) -> None:
    """Refuse what can't tell how times grow: one batch, one context, one chunk."""
    decode, prefill = points.decode, points.prefill
    contexts = max(np.count_nonzero(decode[:, 0] == n) for n in np.unique(decode[:, 0]))
    for kind, what, found in (
        ("decode", "batches (decodes)", len(np.unique(decode[:, 0]))),
        ("decode", "contexts of the same batch", contexts),
        ("prefill", "chunks", len(np.unique(prefill[:, 0]))),
    ):
        if found < 2:
            raise ProfileError(
                f"{where}: {kind!r} has points of {found} {what}, at least 2 are needed to tell how times grow; "
                "measure the profile again"
            )


def _reject_falling(table: FloatArray, columns: tuple[str, str], where: str) -> None:
    for axis in (0, 1):
        for fixed in np.unique(table[:, 1 - axis]):
            line = table[table[:, 1 - axis] == fixed]
            line = line[np.argsort(line[:, axis])]
            highest = np.maximum.accumulate(line[:, 2])
            worst = int(np.argmax(1 - line[:, 2] / highest))
            if line[worst, 2] < (1 - DIP_TOLERANCE_RATIO) * highest[worst]:
                raise ProfileError(
                    f"{where}: times fall as {columns[axis]} grows to {line[worst, axis]:g} at "
                    f"{columns[1 - axis]}={fixed:g}: {line[worst, 2]:g} ms after {highest[worst]:g} ms; "
                    f"at most {DIP_TOLERANCE_RATIO:.0%} is taken for noise: measure these points again"
                )


def _pair_s(prefill: FloatArray) -> float:
    """Return seconds per token pair: the median slope over the prefix, over chunks with three prefixes."""
    slopes = []
    for chunk in np.unique(prefill[:, 0]):
        line = prefill[prefill[:, 0] == chunk]
        if len(line) >= 3:
            slopes.append(np.polyfit(line[:, 1], line[:, 2], 1, w=1 / line[:, 2])[0] / chunk)
    if not slopes:
        return 0.0
    return max(0.0, float(np.median(slopes))) * 1e-3


def _matrix_knots(points: MeasuredPoints, pair_s: float) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Return batch tokens and matrix seconds at them, rising; small batches come from decode points."""
    at: dict[int, float] = {}
    for chunk in np.unique(points.prefill[:, 0]):
        line = points.prefill[points.prefill[:, 0] == chunk]
        rest_s = line[:, 2] * 1e-3 - pair_s * chunk * (line[:, 1] + chunk / 2)
        weights = 1 / line[:, 2] ** 2
        at[int(chunk)] = float(np.sum(rest_s * weights) / np.sum(weights))
    first = min(at)
    for decodes in np.unique(points.decode[:, 0]):
        if decodes < first:
            line = points.decode[points.decode[:, 0] == decodes]
            at[int(decodes)] = float(min(line[np.argmin(line[:, 1]), 2] * 1e-3, at[first]))
    knots = np.array(sorted(at), dtype=np.int64)
    return knots, np.maximum.accumulate(np.array([at[int(k)] for k in knots]))


def _pieces(knots: npt.NDArray[np.int64], matrix: FloatArray) -> tuple[npt.NDArray[np.int64], FloatArray, FloatArray]:
    """Return the linear pieces between knots; before the first knot flat, after the last its slope goes on."""
    slopes = np.concatenate([[0.0], np.diff(matrix) / np.diff(knots)])
    intercepts = np.concatenate([[matrix[0]], matrix[:-1] - slopes[1:] * knots[:-1]])
    return knots.copy(), intercepts, slopes


def _attention(
    decode: FloatArray, rows: npt.NDArray[np.int64], knots: npt.NDArray[np.int64], matrix: FloatArray
) -> FloatArray:
    """Return what decode iterations take beyond matrix work, on the (decodes, KV) grid, levelled to rise."""
    kv = np.array([kv_knot(column) for column in range(NUM_KV_COLUMNS)])
    table = np.empty((len(rows), NUM_KV_COLUMNS))
    extrapolated = np.zeros(table.shape, dtype=bool)
    for index, decodes in enumerate(rows):
        line = decode[decode[:, 0] == decodes]
        line = line[np.argsort(line[:, 1])]
        table[index] = _along_kv(kv, decodes * line[:, 1], line[:, 2] * 1e-3)
        extrapolated[index] = kv > decodes * line[-1, 1]
    for index in range(len(rows) - 2, -1, -1):  # an extrapolated cell never exceeds a larger batch
        capped = np.minimum(table[index], table[index + 1])
        table[index] = np.where(extrapolated[index], capped, table[index])
    table = np.maximum.accumulate(table, axis=0)
    base = np.interp(rows, knots, matrix)
    return np.maximum.accumulate(np.maximum(table - base[:, None], 0.0), axis=1)


def _along_kv(kv: FloatArray, measured_kv: FloatArray, measured_s: FloatArray) -> FloatArray:
    """Interpolate one row; beyond its ends the slope over its outer half goes on."""
    values = np.interp(kv, measured_kv, np.maximum.accumulate(measured_s))
    if len(measured_kv) == 1:
        return values
    middle = (len(measured_kv) - 1) // 2
    low_slope = max(0.0, (measured_s[1] - measured_s[0]) / (measured_kv[1] - measured_kv[0]))
    high_slope = max(0.0, (measured_s[-1] - measured_s[middle]) / (measured_kv[-1] - measured_kv[middle]))
    values = np.where(kv < measured_kv[0], measured_s[0] - low_slope * (measured_kv[0] - kv), values)
    return np.where(kv > measured_kv[-1], measured_s[-1] + high_slope * (kv - measured_kv[-1]), values)
