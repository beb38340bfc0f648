"""ShareGPT: conversations as JSON, or lengths as CSV `num_prefill_tokens,num_decode_tokens` (Vidur, Etalon).

A conversation `{"conversations": [{"from": "human", "value": "..."}, ...]}` gives one request: its first
question and the answer to it, as vLLM's benchmark takes it. There is no tokenizer here: a token is counted
as 4 characters, the usual rule for English.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from polyslo.errors import TraceError
from polyslo.workload.formats.json_file import read_json
from polyslo.workload.formats.table import Table
from polyslo.workload.origin import Origin
from polyslo.workload.trace import Trace

CHARACTERS_PER_TOKEN = 4
COLUMNS = ("num_prefill_tokens", "num_decode_tokens")
ASKERS = ("human", "user")


def read(path: Path) -> Trace:
    """Read ShareGPT conversations or lengths as a trace of lengths only.

    Conversations without a question and an answer are dropped, with a notice; so are rows with 0 output.
    """
    with path.open(encoding="utf-8-sig") as file:
        first = file.read(4096).lstrip()[:1]
    return _read_conversations(path) if first in ("[", "{") else _read_lengths(path)


def _read_lengths(path: Path) -> Trace:
    table, notices = Table.from_csv(path, COLUMNS).without_empty_outputs("num_decode_tokens")
    return Trace.from_columns(
        path.stem,
        None,
        table.numbers("num_prefill_tokens"),
        table.numbers("num_decode_tokens"),
        notices=notices,
        origin=table.origin(input_tokens="num_prefill_tokens", output_tokens="num_decode_tokens"),
    )


def _read_conversations(path: Path) -> Trace:
    entries = read_json(path)
    if not isinstance(entries, list):
        raise TraceError(f"{path}: must be a JSON list of conversations, got {type(entries).__name__}; correct it")
    turns = [_first_turn(entry, row, path) for row, entry in enumerate(entries)]
    kept = [row for row, turn in enumerate(turns) if turn is not None]
    pairs = [turn for turn in turns if turn is not None]
    notices = [f"lengths estimated at {CHARACTERS_PER_TOKEN} characters a token"]
    if len(pairs) < len(turns):
        notices.append(f"{len(turns) - len(pairs)} conversations without question and answer dropped")
    return Trace.from_columns(
        path.stem,
        None,
        [_num_tokens(question) for question, _ in pairs],
        [_num_tokens(answer) for _, answer in pairs],
        notices=notices,
        origin=Origin(str(path), kept, unit="conversation"),
    )


def _first_turn(entry: Any, row: int, path: Path) -> tuple[str, str] | None:
    try:
        messages = [(message["from"], message["value"]) for message in entry["conversations"]]
    except (KeyError, TypeError, IndexError):
        messages = None
    if messages is None or not all(isinstance(text, str) for message in messages for text in message):
        raise TraceError(
            f"{path}, conversation {row}: must be {{'conversations': [{{'from': TEXT, 'value': TEXT}}, ...]}}, "
            f"got {str(entry)[:60]!r}; correct or remove it"
        )
    for (asker, question), (answerer, answer) in pairwise(messages):
        if asker in ASKERS and answerer not in ASKERS:
            return (question, answer) if question and answer else None
    return None


def _num_tokens(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)
