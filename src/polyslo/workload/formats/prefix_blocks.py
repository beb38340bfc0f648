"""Prefix block ids of the JSON formats: the column `hash_ids`, a list of whole numbers for each request."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polyslo.errors import TraceError
from polyslo.workload.formats.table import Table


def prefix_blocks(table: Table) -> list[NDArray[np.int64]] | None:
    """Read `hash_ids` of every row, or None if the file has none; raises `TraceError` for anything else."""
    column = table.columns.get("hash_ids")
    if column is None:
        return None
    blocks = []
    for row, ids in enumerate(column):
        if not isinstance(ids, list) or not all(type(block) is int and abs(block) < 2**62 for block in ids):
            raise TraceError(
                f"{table.origin().cell(row, 'hash_ids')}: must be a list of whole numbers below 2^62, "
                f"got {str(ids)[:40]!r}; correct or remove the row"
            )
        blocks.append(np.array(ids, np.int64))
    return blocks
