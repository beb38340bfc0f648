"""BurstGPT traces: CSV `Timestamp` (s), `Model`, `Request tokens`, `Response tokens`, `Total tokens`,
`Log Type`.

Later files also have `Session ID` and `Elapsed time`; the first becomes `session_id`, the rest is not used.
Source: HPMLL/BurstGPT.
"""

from __future__ import annotations

from pathlib import Path

from polyslo.workload.formats.table import Table
from polyslo.workload.trace import Trace

COLUMNS = ("Timestamp", "Request tokens", "Response tokens")
SESSION = "Session ID"


def read(path: Path) -> Trace:
    """Read a BurstGPT trace; rows with 0 response tokens are failures and dropped, with a notice."""
    table = Table.from_csv(path, COLUMNS, optional=(SESSION,))
    table, notices = table.without_empty_outputs("Response tokens")
    return Trace.from_columns(
        path.stem,
        table.numbers("Timestamp"),
        table.numbers("Request tokens"),
        table.numbers("Response tokens"),
        session_id=table.columns.get(SESSION),
        notices=notices,
        origin=table.origin(arrival_s="Timestamp", input_tokens="Request tokens", output_tokens="Response tokens"),
    )
