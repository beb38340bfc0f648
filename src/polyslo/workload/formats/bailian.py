"""Qwen-Bailian usage traces: JSON lines `chat_id`, `parent_chat_id` (-1 for the first turn), `timestamp`
(s), `input_length`, `output_length`, `type`, `turn`, `hash_ids` (16-token blocks).

Source: alibaba-edu/qwen-bailian-usagetraces-anon. `type` and `turn` are not used.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polyslo.errors import TraceError
from polyslo.workload.formats.prefix_blocks import prefix_blocks
from polyslo.workload.formats.table import Table
from polyslo.workload.trace import Trace

COLUMNS = ("chat_id", "timestamp", "input_length", "output_length")


def read(path: Path) -> Trace:
    """Read a Bailian trace; a session is a chat and its descendants; rows with 0 output are dropped."""
    table = Table.from_json_lines(path, COLUMNS, optional=("parent_chat_id", "hash_ids"))
    session_id = _sessions(table)
    kept, notices = table.without_empty_outputs("output_length")
    return Trace.from_columns(
        path.stem,
        kept.numbers("timestamp"),
        kept.numbers("input_length"),
        kept.numbers("output_length"),
        prefix_hash_ids=prefix_blocks(kept),
        session_id=session_id[np.isin(table.lines, kept.lines)],
        notices=notices,
        origin=kept.origin(arrival_s="timestamp", input_tokens="input_length", output_tokens="output_length"),
    )


def _sessions(table: Table) -> NDArray[np.int64]:
    # a parent comes before its children; a chat whose parent is not in the file begins a session
    chats = _ids(table, "chat_id")
    if "parent_chat_id" not in table.columns:
        return np.array(chats, np.int64)
    root: dict[int, int] = {}
    for chat, parent in zip(chats, _ids(table, "parent_chat_id"), strict=True):
        root[chat] = root.get(parent, chat)
    return np.array([root[chat] for chat in chats], np.int64)


def _ids(table: Table, name: str) -> list[int]:
    ids = table.numbers(name)
    good = (ids == np.floor(ids)) & (np.abs(ids) < 2**53)
    if not good.all():
        row = int(np.argmin(good))
        raise TraceError(
            f"{table.origin().cell(row, name)}: must be a whole number below 2^53, got {ids[row]:.10g}; "
            "correct or remove the row"
        )
    return [int(chat) for chat in ids.tolist()]
