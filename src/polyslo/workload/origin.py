"""Where the rows of a trace came from, so that an error can name the file, the line and the column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """A place that rows were read from.

    `lines[row]` is the line of the row in its file, counted from 1; None when the source has no lines (the
    row number is named instead). `columns` maps our field names (`input_tokens`) to the file's
    (`ContextTokens`).
    """

    path: str
    lines: Sequence[int] | NDArray[np.int64] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    def row(self, row: int) -> str:
        """Name row `row`: `conv.csv, line 12`."""
        return f"{self.path}, row {row}" if self.lines is None else f"{self.path}, line {int(self.lines[row])}"

    def cell(self, row: int, column: str) -> str:
        """Name one cell: `conv.csv, line 12, column ContextTokens`."""
        return f"{self.row(row)}, column {self.columns.get(column, column)}"
