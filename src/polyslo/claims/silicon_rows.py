"""End-to-end measurements of real GPUs, and which shipped profile covers each.

The rows are those of `silicon_sample.csv` in the PyPI package `aiconfigurator-core` (Apache-2.0): an engine served a
model at a concurrency, and TTFT and TPOT were measured. The file is read where it is installed and never copied.

A row is covered when a profile has its model, GPU, tensor-parallel size and precision; a profile of the row's own
engine is preferred. A precision that a row leaves open is taken as that of the checkpoint it names, and such rows are
told apart, since nobody knows.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from polyslo.errors import InputError
from polyslo.profiles.library import NamedProfile, load_profile, shipped_profiles

PACKAGE = "aiconfigurator_core"
_COLUMNS = (
    "id", "silicon_data_source", "backend", "model_path", "system", "precision", "mode", "isl", "osl",
    "gemm_quant_mode", "batch_size", "tp_size", "attention_dp_size", "silicon_ttft_ms", "silicon_tpot_ms",
)  # fmt: skip
_CONCURRENCY = re.compile(r"silicon_concurrency=(\d+)")
_SUFFIXES = re.compile(r"-(instruct|fp8|nvfp4)\b")


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: a closed loop of `concurrency` clients on one engine. Times in seconds."""

    id: str
    source: str  # where the measurement comes from, in the file's own words
    engine: str  # vllm, trtllm, sglang
    model: str
    gpu: str
    tensor_parallel: int
    precision: str  # of the weights: bfloat16, fp8, fp8_block, nvfp4, ...
    is_precision_stated: bool
    input_tokens: int
    output_tokens: int
    concurrency: int
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True)
class Covered:
    """A row and the profile that covers it."""

    row: Row
    profile: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """What of the file can be simulated: `num_rows = len(covered) + ` the sum of `uncovered`'s counts."""

    num_rows: int
    covered: tuple[Covered, ...]
    uncovered: tuple[tuple[str, int], ...]  # reason, rows; most first


def find_sample() -> Path:
    """Return the path of the CSV file in the installed package; the package itself is not imported.

    Raises `InputError` when it is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError(
            f"silicon sample: the package {PACKAGE} is not installed; install aiconfigurator-core, or name the file"
        )
    return Path(spec.origin).parent / "systems" / "silicon_sample.csv"


def read_coverage(path: Path, profiles: Sequence[str] | None = None) -> Coverage:
    """Read the file and find each row's profile among `profiles`, names or paths (default: those shipped).

    Raises `InputError` when the file can't be read or lacks a column.
    """
    shelf = [load_profile(name) for name in (shipped_profiles() if profiles is None else profiles)]
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines)
            missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{path}: no column {missing[0]!r}; is this aiconfigurator-core's silicon_sample.csv?")
            found = [_cover(record, shelf) for record in reader]
    except OSError as error:
        raise InputError(f"{path}: can't be read, {error.strerror}; check the path") from error
    reasons = Counter(answer for answer in found if isinstance(answer, str))
    covered = tuple(answer for answer in found if isinstance(answer, Covered))
    return Coverage(len(found), covered, tuple(reasons.most_common()))


def _cover(record: dict[str, str], shelf: Sequence[NamedProfile]) -> Covered | str:
    """Return the row with its profile, or why there is none."""
    concurrency = _CONCURRENCY.search(record["silicon_data_source"])
    if record["mode"] != "agg":
        return "prefill and decode on different instances"
    if concurrency is None or float(concurrency[1]) != float(record["batch_size"] or "nan"):
        return "not one engine at a stated concurrency"
    if float(record["attention_dp_size"] or 1) > 1:
        return "data-parallel attention"
    row = _row(record, int(concurrency[1]))
    model = [named for named in shelf if _family(named.facts["model"]) == _family(row.model)]
    gpu = [named for named in model if named.facts["system"] == row.gpu]
    size = [named for named in gpu if named.facts["tensor_parallel"] == row.tensor_parallel]
    same = [named for named in size if named.facts["dtype"] == row.precision]
    for fitting, what in ((model, "this model"), (gpu, "this model on this GPU"), (size, "this tensor-parallel size")):
        if not fitting:
            return f"no profile of {what}"
    if not same:
        return "another precision" if row.is_precision_stated else "precision not stated, and no profile of the usual"
    return Covered(row, min(same, key=lambda named: (named.facts["engine"] != row.engine, named.name)).name)


def _row(record: dict[str, str], concurrency: int) -> Row:
    stated = record["gemm_quant_mode"] or record["precision"]
    return Row(
        id=record["id"],
        source=record["silicon_data_source"],
        engine=record["backend"],
        model=record["model_path"],
        gpu=record["system"],
        tensor_parallel=int(float(record["tp_size"])),
        precision=stated or ("fp8" if "fp8" in record["model_path"].lower() else "bfloat16"),
        is_precision_stated=bool(stated),
        input_tokens=int(record["isl"]),
        output_tokens=int(record["osl"]),
        concurrency=concurrency,
        ttft_s=float(record["silicon_ttft_ms"]) * 1e-3,
        tpot_s=float(record["silicon_tpot_ms"]) * 1e-3,
    )


def _family(model: str) -> str:
    """Return what checkpoints of one model share: `nvidia/Llama-3.1-70B-Instruct-FP8` is `llama-3.1-70b`."""
    return _SUFFIXES.sub("", model.split("/")[-1].lower().removeprefix("meta-"))


def split(covered: Iterable[Covered]) -> tuple[tuple[Covered, ...], tuple[Covered, ...]]:
    """Halve the rows for fitting and scoring: every second of each engine, model, GPU and size, by hash of the id."""
    ordered = sorted(covered, key=lambda c: (_stratum(c.row), sha256(c.row.id.encode()).digest()))
    return tuple(ordered[::2]), tuple(ordered[1::2])


def _stratum(row: Row) -> tuple[str, str, str, int]:
    return row.engine, row.model, row.gpu, row.tensor_parallel
