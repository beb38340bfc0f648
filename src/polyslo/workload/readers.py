"""Read a trace file in any of the formats of `FORMATS`; each has a file in `formats/`.

The format is told from the file's first bytes. To add one: a module in `formats/` with `read(path)`, a line
in `FORMATS`, and a word that only such files begin with in `_MARKERS`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from polyslo.errors import TraceError, nearest
from polyslo.workload.formats import (
    azure,
    bailian,
    burstgpt,
    mooncake,
    native_csv,
    parquet,
    sharegpt,
    vllm_bench,
)
from polyslo.workload.trace import Trace

FORMATS: dict[str, Callable[[Path], Trace]] = {
    "azure": azure.read,
    "bailian": bailian.read,
    "burstgpt": burstgpt.read,
    "csv": native_csv.read,
    "mooncake": mooncake.read,
    "parquet": parquet.read,
    "sharegpt": sharegpt.read,
    "vllm-bench": vllm_bench.read,
}

# Words in the head of a file, looked for in this order: `input_length` is in Bailian files too.
_MARKERS = (
    ("azure", "ContextTokens"),
    ("burstgpt", "Request tokens"),
    ("sharegpt", "num_prefill_tokens"),
    ("csv", "input_tokens,"),
    ("csv", "output_tokens,"),
    ("bailian", '"chat_id"'),
    ("mooncake", '"input_length"'),
    ("vllm-bench", '"input_lens"'),
)
_HEAD_BYTES = 65_536
_COARSE_SHARE = 0.5  # of arrivals at the time of the one before


def read_trace(path: str | Path, format: str | None = None, *, jitter_s: float | None = None, seed: int = 0) -> Trace:
    """Read a trace; `format` is a key of `FORMATS`, or None to tell it from the file.

    `jitter_s` adds U[0, jitter_s) seconds to every arrival (drawn from `seed`), for clocks that were rounded
    down; a notice says when a clock looks rounded. Raises `TraceError` naming file, line and column of what
    is wrong, or that the format is unknown; `InputError` if a package for the format is missing.
    """
    path = Path(path)
    try:
        name = format if format is not None else detect(path)
        if name not in FORMATS:
            raise TraceError(f"{path}: unknown trace format {name!r}{nearest(name, FORMATS)}")
        trace = FORMATS[name](path)
    except OSError as error:
        raise TraceError(f"{path}: can't read it: {error.strerror}; check the path") from error
    except csv.Error as error:
        raise TraceError(f"{path}: not CSV: {error}; correct the file") from error
    except RecursionError as error:
        raise TraceError(f"{path}: not a trace: its JSON is nested too deep; correct the file") from error
    except UnicodeDecodeError as error:
        raise TraceError(
            f"{_undecodable(path)}: not text in UTF-8, got byte {error.object[error.start]:#04x}; save it as UTF-8"
        ) from error
    if jitter_s is not None:
        return trace.jittered(jitter_s, seed)
    return replace(trace, notices=(*trace.notices, *_coarse_clock(trace)))


def detect(path: Path) -> str:
    """Tell the format of `path` from its head; raises `TraceError` when no format fits."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    if not text:
        raise TraceError(f"{path}: is empty; a trace needs a header and at least one row")
    if text.startswith("["):
        return "sharegpt"
    # a table is told by its header alone, its cells may hold any word
    text = text if text.startswith("{") else text.partition("\n")[0]
    for name, marker in _MARKERS:
        if marker in text:
            return name
    if not text.startswith("{") and any(column in text for column in native_csv.COLUMNS + native_csv.OPTIONAL):
        return "csv"  # with a column missing, which its reader will name
    if "\N{REPLACEMENT CHARACTER}" in text[:40]:
        raise TraceError(f"{path}: not text in UTF-8; if it is compressed, unpack it")
    raise TraceError(
        f"{path}: can't tell its format, it begins with {text[:40]!r}; name the format, one of {', '.join(FORMATS)}"
    )


def _undecodable(path: Path) -> str:
    """Name the line of the first byte that is not UTF-8; the reader that met it knows its place in a buffer only."""
    content = path.read_bytes()
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f"{path}, line {line}"
    return str(path)


def _coarse_clock(trace: Trace) -> tuple[str, ...]:
    gaps = np.diff(trace.arrival_s)
    if not trace.has_arrivals or len(gaps) < 2 or not (gaps > 0).any():
        return ()
    share = float(np.mean(gaps == 0))
    if share < _COARSE_SHARE:
        return ()
    step_s = float(np.median(gaps[gaps > 0]))
    return (f"{share:.0%} of arrivals share the time of another: jitter_s={step_s:.3g} would spread them",)
