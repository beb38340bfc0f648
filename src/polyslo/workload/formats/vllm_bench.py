"""Results of `vllm bench serve --save-result --save-detailed`: one JSON object with a list per quantity.

`input_lens` and `output_lens` are tokens of each request, `start_times` (newer versions) its start in
seconds of some clock. So a benchmark that was run can be replayed here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyslo.errors import TraceError
from polyslo.workload.formats.json_file import read_json
from polyslo.workload.formats.table import is_number
from polyslo.workload.origin import Origin
from polyslo.workload.trace import Trace

COLUMNS = ("input_lens", "output_lens")


def read(path: Path) -> Trace:
    """Read the requests of a benchmark result; failed ones (0 output) are dropped, with a notice.

    Without `start_times` it is a trace of lengths only, and a notice says so.
    """
    result = _result(path)
    inputs, outputs = (_list(result, name, path) for name in COLUMNS)
    starts = _list(result, "start_times", path) if "start_times" in result else None
    sizes = {len(values) for values in (inputs, outputs, starts) if values is not None}
    if len(sizes) > 1:
        raise TraceError(f"{path}: input_lens, output_lens and start_times must be of one length; correct the file")
    done = outputs != 0
    notices = []
    if not done.all():
        notices.append(f"{np.count_nonzero(~done)} requests without any output dropped (output_lens is 0)")
    if starts is None:
        notices.append("no start_times in the file: lengths only")
    return Trace.from_columns(
        path.stem,
        None if starts is None else starts[done],
        inputs[done],
        outputs[done],
        notices=notices,
        origin=Origin(
            str(path),
            np.flatnonzero(done),
            unit="row",
            columns={
                "arrival_s": "start_times",
                "input_tokens": "input_lens",
                "output_tokens": "output_lens",
            },
        ),
    )


def _result(path: Path) -> dict[str, Any]:
    result = read_json(path)
    if not isinstance(result, dict):
        raise TraceError(f"{path}: must be one JSON object, got {type(result).__name__}; give the saved result itself")
    for name in COLUMNS:
        if name not in result:
            raise TraceError(f"{path}: missing key {name!r}; run vllm bench serve with --save-detailed")
    return result


def _list(result: dict[str, Any], name: str, path: Path) -> NDArray[np.float64]:
    values = result[name]
    if not isinstance(values, list):
        raise TraceError(f"{path}, key {name!r}: must be a list of numbers, got {type(values).__name__}; correct it")
    for row, value in enumerate(values):
        if isinstance(value, str) or not is_number(value):
            raise TraceError(f"{path}, row {row}, column {name}: must be a number, got {value!r:.40}; correct the file")
    return np.array(values, np.float64)
