"""Parquet traces, our own layout: `input_tokens`, `output_tokens` and, where known, `arrival_s` (seconds),
`prefix_hash_ids` (lists), `session_id`, `client_id`. Other columns are ignored, with a notice.

Needs pyarrow, the extra `polyslo[parquet]`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyslo.errors import InputError, TraceError
from polyslo.workload.origin import Origin
from polyslo.workload.trace import Trace

REQUIRED = ("input_tokens", "output_tokens")
COLUMNS = ("arrival_s", *REQUIRED, "prefix_hash_ids", "session_id", "client_id")


def read(path: Path) -> Trace:
    """Read a Parquet trace; an absent, empty or all-NaN `arrival_s` makes a trace of lengths only.

    Raises `InputError` without pyarrow, `TraceError` for missing columns, nulls and impossible values.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs pyarrow; pip install 'polyslo[parquet]'") from error
    try:
        found = pq.read_schema(path).names
        table = pq.read_table(path, columns=[name for name in COLUMNS if name in found])
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise TraceError(f"{path}: can't read it as Parquet: {reason}; write the file again") from error
    for name in REQUIRED:
        if name not in found:
            raise TraceError(f"{path}: missing column {name!r}; needs {', '.join(REQUIRED)}")
    if "arrival_s" in found and _is_absent(table["arrival_s"]):
        table = table.drop_columns("arrival_s")
    columns = {name: _numbers(table, name, path) for name in table.schema.names if name != "prefix_hash_ids"}
    ignored = [name for name in found if name not in COLUMNS]
    return Trace.from_columns(
        path.stem,
        columns.get("arrival_s"),
        columns["input_tokens"],
        columns["output_tokens"],
        prefix_hash_ids=_lists(table, path) if "prefix_hash_ids" in found else None,
        session_id=columns.get("session_id"),
        client_id=columns.get("client_id"),
        notices=[f"columns ignored: {', '.join(ignored)}"] if ignored else (),
        origin=Origin(str(path)),
    )


def _is_absent(arrival_s: Any) -> bool:
    return bool(arrival_s.is_null(nan_is_null=True).to_numpy().all()) and len(arrival_s) > 0


def _numbers(table: Any, name: str, path: Path) -> NDArray[Any]:
    column = table[name]
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise TraceError(f"{path}, row {row}, column {name}: empty; fill or remove the row")
    values: NDArray[Any] = column.to_numpy()
    if len(values) and name in ("arrival_s", *REQUIRED) and not np.issubdtype(values.dtype, np.number):
        what = "numbers, of seconds" if name == "arrival_s" else "numbers"
        raise TraceError(f"{path}, column {name}: must hold {what}, got {column.type}; convert it")
    return values


def _lists(table: Any, path: Path) -> list[NDArray[np.int64]]:
    import pyarrow.types as kinds

    column = table["prefix_hash_ids"].combine_chunks()
    is_list = kinds.is_list(column.type) or kinds.is_large_list(column.type)
    blocks = column.flatten() if is_list else None
    if blocks is None or (len(blocks) and not kinds.is_integer(blocks.type)) or blocks.null_count:
        raise TraceError(
            f"{path}, column prefix_hash_ids: must hold lists of whole numbers, got {column.type}"
            f"{' with empty elements' if blocks is not None and blocks.null_count else ''}; convert or drop it"
        )
    flat = blocks.to_numpy().astype(np.int64)
    lengths = column.value_lengths().fill_null(0).to_numpy()
    return np.split(flat, np.cumsum(lengths)[:-1])
