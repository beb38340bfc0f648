"""Mooncake traces: JSON lines `timestamp` (ms), `input_length`, `output_length`, `hash_ids`.

`hash_ids` are blocks of 512 tokens. The clock of the conversation trace moves in steps of 3 s: read it with
`jitter_s=3`. Source: kvcache-ai/Mooncake.
"""

from __future__ import annotations

from pathlib import Path

from polyslo.workload.formats.prefix_blocks import prefix_blocks
from polyslo.workload.formats.table import Table
from polyslo.workload.trace import Trace

COLUMNS = ("timestamp", "input_length", "output_length")


def read(path: Path) -> Trace:
    """Read a Mooncake trace; rows with 0 output are dropped, with a notice."""
    table = Table.from_json_lines(path, COLUMNS, optional=("hash_ids",))
    table, notices = table.without_empty_outputs("output_length")
    return Trace.from_columns(
        path.stem,
        table.numbers("timestamp") / 1e3,
        table.numbers("input_length"),
        table.numbers("output_length"),
        prefix_hash_ids=prefix_blocks(table),
        notices=notices,
        origin=table.origin(arrival_s="timestamp", input_tokens="input_length", output_tokens="output_length"),
    )
