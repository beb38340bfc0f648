"""Rows of a text file as columns, with the line of each row kept for errors. Formats read through this.

CSV with a header, or JSON lines. Values stay as they were in the file until `numbers` is asked for them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from polyslo.errors import TraceError
from polyslo.workload.origin import Origin

_MISSING = object()


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of equal length; `lines[row]` is the line of the row in the file, counted from 1."""

    path: Path
    columns: dict[str, Sequence[Any]]
    lines: Sequence[int]

    @classmethod
    def from_csv(cls, path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Self:
        """Read a CSV file with a header; other columns are left out, blank lines skipped.

        Raises `TraceError` for a missing column and for a row longer or shorter than the header.
        """
        lines, rows = [], []
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            for row in reader:
                if len(row) != len(header):
                    if not row:
                        continue
                    raise TraceError(
                        f"{path}, line {reader.line_num}: got {len(row)} values, the header has {len(header)}; "
                        "correct or remove the row"
                    )
                lines.append(reader.line_num)
                rows.append(row)
        if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
            raise TraceError(
                f"{path}, line 1: columns must be separated by commas, got {header[0][:80]!r}; write it with commas"
            )
        for name in (*required, *optional):
            if header.count(name) > 1:
                raise TraceError(
                    f"{path}, line 1: has {header.count(name)} columns {name!r}, got the header "
                    f"{','.join(header)[:80]!r}; keep one"
                )
        for name in required:
            if name not in header:
                raise TraceError(f"{path}: missing column {name!r}{_likely(name, header, required)}")
        columns = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(header, ())
        return cls(path, {name: columns[name] for name in (*required, *optional) if name in columns}, lines)

    @classmethod
    def from_json_lines(cls, path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Self:
        """Read a file with one JSON object a line; blank lines are skipped, other keys left out.

        Raises `TraceError` for a line that is not a JSON object or lacks a required key. An optional key
        is a column only if every line has it.
        """
        lines, records = [], []
        with path.open(encoding="utf-8-sig") as file:
            for number, text in enumerate(file, start=1):
                if text.strip():
                    records.append(_record(text, path, number))
                    lines.append(number)
        columns: dict[str, Sequence[Any]] = {}
        for name in (*required, *optional):
            column = [record.get(name, _MISSING) for record in records]
            if _MISSING not in column:
                columns[name] = column
            elif name in required:
                row = column.index(_MISSING)
                hint = _likely(name, records[row], required)
                raise TraceError(f"{path}, line {lines[row]}: missing key {name!r}{hint}")
        return cls(path, columns, lines)

    def __len__(self) -> int:
        return len(self.lines)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Turn a column into float64 [n]; raises `TraceError` naming the first cell that is not a number."""
        column = self.columns[name]
        if not set(map(type, column)) <= {int, float, str}:
            raise self._not_a_number(name)
        try:
            return np.fromiter(map(float, column), np.float64, len(column))
        except (ValueError, OverflowError) as error:
            raise self._not_a_number(name) from error

    def origin(self, **columns: str) -> Origin:
        """Say where the rows come from; `columns` maps our names to the file's."""
        return Origin(str(self.path), self.lines, columns)

    def without_empty_outputs(self, name: str) -> tuple[Self, tuple[str, ...]]:
        """Drop the rows whose output column `name` is 0: requests that failed; a notice counts them."""
        empty = self.numbers(name) == 0
        num_empty = int(np.count_nonzero(empty))
        if not num_empty:
            return self, ()
        rows = np.flatnonzero(~empty).tolist()
        columns: dict[str, Sequence[Any]] = {key: [values[row] for row in rows] for key, values in self.columns.items()}
        notice = f"{num_empty} requests without any output dropped ({name} is 0)"
        return type(self)(self.path, columns, [self.lines[row] for row in rows]), (notice,)

    def _not_a_number(self, name: str) -> TraceError:
        row = next(row for row, value in enumerate(self.columns[name]) if not is_number(value))
        return TraceError(
            f"{self.origin().cell(row, name)}: must be a number, got {self.columns[name][row]!r:.40}; "
            "correct or remove the row"
        )


def _likely(name: str, found: Collection[str], required: Sequence[str]) -> str:
    """Say which of the names in the file was probably meant; names that mean something else are not."""
    spare = [other for other in found if other not in required]
    close = get_close_matches(name, spare, n=1)
    got = ", ".join(found)
    shown = got if len(got) <= 100 else f"{got[:100]}..."
    return f"; did you mean {close[0]!r}? rename it" if close else f"; needs {', '.join(required)}, got {shown}"


def _record(text: str, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(text.rstrip())
    except json.JSONDecodeError as error:
        raise TraceError(
            f"{path}, line {number}, column {error.colno}: not JSON: {error.msg}; correct or remove the line"
        ) from error
    except ValueError as error:
        raise TraceError(
            f"{path}, line {number}: holds a number of more digits than can be read; correct or remove the line"
        ) from error
    if not isinstance(record, dict):
        raise TraceError(
            f"{path}, line {number}: must be a JSON object, got {text.strip()[:40]!r}; correct or remove it"
        )
    return record


def is_number(value: Any) -> bool:
    """Tell whether a cell is a number, or the text of one, that a float can hold."""
    if type(value) not in (int, float, str):
        return False
    try:
        float(value)
    except (ValueError, OverflowError):
        return False
    return True
