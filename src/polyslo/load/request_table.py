"""What happened to each request of a replay, as a table for other tools: CSV, a line a request."""

from __future__ import annotations

import csv
import io

import numpy as np
import numpy.typing as npt

from polyslo.load.plan import LoadPlan
from polyslo.load.records import OUTCOMES, Records

COLUMNS = (
    "request", "arrival_s", "is_scored", "ttft_slo_ms", "tpot_slo_ms", "prompt_tokens", "output_tokens",
    "sent_late_ms", "ttft_ms", "last_token_ms", "lateness_ms", "tokens", "outcome", "error",
)  # fmt: skip


def request_table(plan: LoadPlan, records: Records) -> str:
    """Write a row a request, in order of arrival; times in the workload's time, and empty for never.

    `ttft_ms` and `last_token_ms` count from when the request was to be sent, `lateness_ms` is that of its latest
    token (negative: all were early).
    """
    workload = plan.workload
    to_ms = 1e3 * plan.speed
    columns = (
        range(len(plan)),
        _rounded(workload.arrival_s, 6),
        plan.is_scored.astype(np.int64).tolist(),
        _rounded(1e3 * workload.ttft_s, 3),
        _rounded(1e3 * workload.tpot_s, 3),
        workload.input_tokens.tolist(),
        workload.output_tokens.tolist(),
        _rounded(to_ms * (records.sent_s - plan.send_s), 3),
        _rounded(to_ms * (records.first_token_s - plan.send_s), 3),
        _rounded(to_ms * (records.last_token_s - plan.send_s), 3),
        _rounded(to_ms * records.lateness_s, 3),
        records.num_tokens.tolist(),
        [OUTCOMES[k] for k in records.outcome],
        [records.kinds[k] for k in records.kind],
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def _rounded(values: npt.NDArray[np.float64], digits: int) -> list[float | str]:
    return [round(value, digits) if np.isfinite(value) else "" for value in values.tolist()]
