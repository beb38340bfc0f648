"""Azure LLM inference traces, 2023 and 2024: CSV `TIMESTAMP,ContextTokens,GeneratedTokens`.

Times are written as `2023-11-16 18:15:46.6805900` (2023) or `2024-05-10 00:00:00.009930+00:00` (2024).
Source: Azure/AzurePublicDataset.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polyslo.errors import TraceError
from polyslo.workload.formats.table import Table
from polyslo.workload.trace import Trace

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read(path: Path) -> Trace:
    """Read an Azure trace; rows with 0 generated tokens are dropped, with a notice."""
    table, notices = Table.from_csv(path, COLUMNS).without_empty_outputs("GeneratedTokens")
    return Trace.from_columns(
        path.stem,
        _arrival_s(table),
        table.numbers("ContextTokens"),
        table.numbers("GeneratedTokens"),
        notices=notices,
        origin=table.origin(arrival_s="TIMESTAMP", input_tokens="ContextTokens", output_tokens="GeneratedTokens"),
    )


def _arrival_s(table: Table) -> NDArray[np.float64]:
    # Every row of the 2024 files has the zone +00:00, which datetime64 does not take.
    texts = [text.removesuffix("Z").removesuffix("+00:00") for text in table.columns["TIMESTAMP"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # numpy turns other zones into UTC, and says that it does
        try:
            time = np.array(texts, "datetime64[ns]")
        except ValueError:
            time = np.array([_parsed(text) for text in texts])
    bad = np.isnat(time)
    if bad.any():
        row = int(np.argmax(bad))
        raise TraceError(
            f"{table.origin().cell(row, 'TIMESTAMP')}: must be a UTC time like 2023-11-16 18:15:46.68, "
            f"got {table.columns['TIMESTAMP'][row]!r}; correct or remove the row"
        )
    return (time - time.min()) / np.timedelta64(1, "s") if len(time) else np.zeros(0)


def _parsed(text: str) -> np.datetime64:
    try:
        return np.datetime64(text, "ns")
    except ValueError:
        return np.datetime64("NaT", "ns")
