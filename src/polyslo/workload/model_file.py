"""The JSON file of a workload model: one object with the keys of `KEYS`.

Probabilities are stored once for the inputs and once for all strata of outputs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from polyslo.errors import InputError, reject_unknown_keys
from polyslo.workload.burstiness import Burstiness
from polyslo.workload.lengths import Lengths, Quantiles

if TYPE_CHECKING:
    from polyslo.workload.model import WorkloadModel

FORMAT = "polyslo-workload-1"
_TEXT_KEYS = ("name", "source", "licence", "conditions")
_BURSTINESS_KEYS = ("top_gaps", "top_spread", "split_spreads", "cascade_weight", "gap_quantiles")
_LENGTH_KEYS = (
    "input_probabilities",
    "input_tokens",
    "output_probabilities",
    "output_tokens",
    "rank_correlations",
)
KEYS = ("format", *_TEXT_KEYS, "num_requests", "rate_rps", *_LENGTH_KEYS, "burstiness")


def dump(model: WorkloadModel) -> str:
    """Write `model` as JSON text, one key a line (one stratum a line) so that a diff can be read."""
    lengths, bursts = model.lengths, model.burstiness
    record: dict[str, Any] = {"format": FORMAT}
    record |= {key: getattr(model, key) for key in (*_TEXT_KEYS, "num_requests", "rate_rps")}
    record["input_probabilities"] = lengths.input.probabilities
    record["input_tokens"] = lengths.input.tokens
    record["output_probabilities"] = lengths.outputs[0].probabilities
    record["output_tokens"] = [output.tokens for output in lengths.outputs]
    record["rank_correlations"] = lengths.rank_correlations
    record["burstiness"] = bursts and {key: getattr(bursts, key) for key in _BURSTINESS_KEYS}
    lines = [f"  {json.dumps(key)}: {_dump_value(value)}" for key, value in record.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def parse(text: str, where: str) -> dict[str, Any]:
    """Read the fields of a `WorkloadModel` from JSON text; `where` names the file in errors.

    Raises `InputError` for text that is not JSON, another format, and missing, unknown or impossible values.
    """
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}, line {error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{where}: not a workload model; its 'format' must be {FORMAT!r}")
    reject_unknown_keys(record, KEYS, where)
    try:
        return _fields(record)
    except KeyError as error:
        raise InputError(f"{where}: missing key {error}") from error
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error


def _fields(record: dict[str, Any]) -> dict[str, Any]:
    output_probabilities = tuple(map(float, record["output_probabilities"]))
    lengths = Lengths(
        Quantiles(tuple(map(float, record["input_probabilities"])), tuple(map(float, record["input_tokens"]))),
        tuple(Quantiles(output_probabilities, tuple(map(float, tokens))) for tokens in record["output_tokens"]),
        tuple(map(float, record["rank_correlations"])),
    )
    bursts, rate = record["burstiness"], record["rate_rps"]
    return {
        **{key: str(record[key]) for key in _TEXT_KEYS},
        "num_requests": int(record["num_requests"]),
        "rate_rps": None if rate is None else float(rate),
        "lengths": lengths,
        "burstiness": None if bursts is None else _burstiness(bursts),
    }


def _burstiness(record: dict[str, Any]) -> Burstiness:
    return Burstiness(
        int(record["top_gaps"]),
        float(record["top_spread"]),
        tuple(map(float, record["split_spreads"])),
        float(record["cascade_weight"]),
        tuple(map(float, record["gap_quantiles"])),
    )


def _dump_value(value: Any) -> str:
    if isinstance(value, list):
        return "[\n    " + ",\n    ".join(_dump_value(row) for row in value) + "\n  ]"
    if isinstance(value, dict):
        lines = [f"{json.dumps(key)}: {_dump_value(item)}" for key, item in value.items()]
        return "{\n    " + ",\n    ".join(lines) + "\n  }"
    if isinstance(value, tuple):
        return "[" + ", ".join(_dump_value(item) for item in value) + "]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)
