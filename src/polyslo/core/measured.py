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

from polyslo.core.profile import PHYSICS, Profile, kv_knot
from polyslo.errors import ProfileError

FloatArray = npt.NDArray[np.float64]

NUM_KV_COLUMNS = 48  # knots up to 64 * 1.5 * 2**23 tokens: more than any instance holds
MAX_BATCH_TOKENS = 32_768
MAX_DECODES = 4_096
DIP_TOLERANCE_RATIO = 0.10  # a larger batch may measure this much faster (kernel choice); it is levelled out


@dataclass(frozen=True, slots=True)
class MeasuredPoints:
    """Measured iterations, times in ms: rows (decodes, context, ms), (chunk, prefix, ms) and
    (chunk, decodes, context, ms)."""

    decode: FloatArray
    prefill: FloatArray
    mixed: FloatArray

    def covers(self, decodes: int, chunk: int, kv_tokens: float, prefill_context: float) -> bool:
        """Tell whether an iteration lies inside the measured range, so that nothing is extrapolated."""
        return bool(
            decodes <= self.decode[:, 0].max()
            and kv_tokens <= (self.decode[:, 0] * self.decode[:, 1]).max()
            and chunk <= self.prefill[:, 0].max()
            and prefill_context <= (self.prefill[:, 1] + self.prefill[:, 0] / 2).max()
        )


def read_points(data: Mapping[str, Any], where: str) -> MeasuredPoints:
    """Check the point lists of a profile file and return them as arrays.

    Raises `ProfileError` for missing lists, holes (NaN), times that are not positive, and times that fall by
    more than 10% as the batch grows.
    """
    points = MeasuredPoints(
        decode=_rows(data, "decode", ("decodes", "context", "ms"), where),
        prefill=_rows(data, "prefill", ("chunk", "prefix", "ms"), where),
        mixed=_rows(data, "mixed", ("chunk", "decodes", "context", "ms"), where, required=False),
    )
    _reject_falling(points.decode, ("decodes", "context"), where)
    _reject_falling(points.prefill, ("chunk", "prefix"), where)
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
            usable = isinstance(value, int | float) and np.isfinite(value) and value >= 0
            if not usable or (column == "ms" and value <= 0):
                raise ProfileError(
                    f"{where}: {kind}[{index}].{column} must be a finite number > 0, got {value!r}; "
                    "a profile with holes can't be trusted: measure that point again or drop the row"
                )
    table = [[float(row[column]) for column in columns] for row in found]
    return np.array(table, dtype=np.float64).reshape(-1, len(columns))


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
