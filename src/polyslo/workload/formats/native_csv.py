"""Our own layout as CSV: `input_tokens,output_tokens` and, where known, `arrival_s`, `session_id`,
`client_id`.

The columns of our Parquet traces, without the need for pyarrow: the format to write by hand.
"""

from __future__ import annotations

from pathlib import Path

from polyslo.workload.formats.table import Table
from polyslo.workload.trace import Trace

COLUMNS = ("input_tokens", "output_tokens")
OPTIONAL = ("arrival_s", "session_id", "client_id")


def read(path: Path) -> Trace:
    """Read a CSV trace; without `arrival_s` it is one of lengths only. Nothing is dropped."""
    table = Table.from_csv(path, COLUMNS, OPTIONAL)
    return Trace.from_columns(
        path.stem,
        table.numbers("arrival_s") if "arrival_s" in table.columns else None,
        table.numbers("input_tokens"),
        table.numbers("output_tokens"),
        session_id=table.columns.get("session_id"),
        client_id=table.columns.get("client_id"),
        origin=table.origin(),
    )
