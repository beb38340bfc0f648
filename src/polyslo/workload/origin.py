"""Where the rows of a trace came from, so that an error can name the file, the line and the column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """A place that rows were read from.

    `lines[row]` is the line of the row in its file, counted from 1. Where the file has no lines, `unit` says what
    is counted instead, from 0; None: the rows are all there, in their order. `columns` maps our field names
    (`input_tokens`) to the file's (`ContextTokens`).
    """

    path: str
    lines: Sequence[int] | NDArray[np.int64] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    unit: str = "line"

    def row(self, row: int) -> str:
        """Name row `row`: `conv.csv, line 12`."""
        return f"{self.path}, row {row}" if self.lines is None else f"{self.path}, {self.unit} {int(self.lines[row])}"

    def cell(self, row: int, column: str) -> str:
        """Name one cell: `conv.csv, line 12, column ContextTokens`."""
        return f"{self.row(row)}, column {self.columns.get(column, column)}"

    def numbered(self, num_rows: int) -> Self:
        """Write the numbers of the rows down, so that they can be sorted and chosen from."""
        if self.lines is None:
            return replace(self, lines=np.arange(num_rows), unit="row")
        return replace(self, lines=np.asarray(self.lines, np.int64))

    def chosen(self, rows: slice | NDArray[np.int64]) -> Self:
        """Return the origin of some of the rows; they must be numbered."""
        return replace(self, lines=np.asarray(self.lines, np.int64)[rows])
