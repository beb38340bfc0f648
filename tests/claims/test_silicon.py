"""The comparison with measurements: which rows are covered, halves, the fit, and the claim itself."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, replace
from importlib.util import find_spec

import numpy as np
import pytest

from polyslo.claims.silicon import (
    PUBLIC,
    PUBLIC_SOURCE,
    UNKNOWN,
    ErrorSummary,
    HostSweep,
    compare_with_silicon,
    engine_limits,
    simulate_row,
    simulate_rows,
)
from polyslo.claims.silicon_rows import PACKAGE, Coverage, Covered, Row, find_sample, read_coverage, split
from polyslo.claims.silicon_section import silicon_markdown
from polyslo.errors import InputError
from polyslo.profiles.library import load_profile

PROFILE = "llama-3.1-70b-fp8-h200-tp8"
ROW = Row(
    id="r", source="a laboratory", engine="vllm", model="meta-llama/Llama-3.1-70B", gpu="h200_sxm",
    tensor_parallel=8, precision="fp8", is_precision_stated=True, input_tokens=64, output_tokens=16, concurrency=2,
    ttft_s=0.1, tpot_s=0.01,
)  # fmt: skip
RECORD = {
    "id": "a", "silicon_data_source": "file=x; silicon_concurrency=4; wip=False", "backend": "vllm",
    "model_path": "meta-llama/Llama-3.1-70B", "system": "h200_sxm", "precision": "fp8", "mode": "agg", "isl": "1024",
    "osl": "512", "gemm_quant_mode": "fp8", "batch_size": "4", "tp_size": "8", "attention_dp_size": "",
    "silicon_ttft_ms": "100.0", "silicon_tpot_ms": "12.5",
}  # fmt: skip


def _sample(tmp_path, *records):
    path = tmp_path / "sample.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(RECORD))
        writer.writeheader()
        writer.writerows(records)
    return path


def _synthetic(host_s: float) -> list[Covered]:
    """Rows whose measured times are what the simulator says with a host time."""
    rows = []
    for k, (concurrency, input_tokens, engine) in enumerate((c, n, e) for c in (1, 4, 8) for n in (32, 900)
                                                            for e in ("vllm", "trtllm")):  # fmt: skip
        row = replace(ROW, id=f"row {k}", concurrency=concurrency, input_tokens=input_tokens, engine=engine)
        (found,) = simulate_rows([Covered(row, PROFILE)], host_s)
        rows.append(Covered(replace(row, ttft_s=found.ttft_s, tpot_s=found.tpot_s), PROFILE))
    return rows


def test_a_row_is_covered_by_the_profile_of_its_own_engine(tmp_path):
    """Milliseconds become seconds, and of two profiles the engine's own is taken."""
    coverage = read_coverage(_sample(tmp_path, RECORD, RECORD | {"id": "b", "backend": "trtllm"}))
    assert [covered.profile for covered in coverage.covered] == [PROFILE, f"{PROFILE}-trtllm"]
    row = coverage.covered[0].row
    assert (row.concurrency, row.input_tokens, row.output_tokens) == (4, 1024, 512)
    assert (row.ttft_s, row.tpot_s) == (0.1, 0.0125)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mode": "disagg"}, "prefill and decode on different instances"),
        ({"silicon_data_source": "file=x"}, "not one engine at a stated concurrency"),
        ({"batch_size": "2"}, "not one engine at a stated concurrency"),
        ({"attention_dp_size": "2.0"}, "data-parallel attention"),
        ({"model_path": "deepseek-ai/DeepSeek-R1"}, "no profile of this model"),
        ({"system": "gb200"}, "no profile of this model on this GPU"),
        ({"tp_size": "16"}, "no profile of this tensor-parallel size"),
        ({"gemm_quant_mode": "nvfp4"}, "another precision"),
        ({"gemm_quant_mode": "", "precision": ""}, "precision not stated, and no profile of the usual"),
    ],
)
def test_a_row_without_its_profile_is_not_covered(tmp_path, change, reason):
    """Nothing is simulated on a profile of something else; the reason is counted."""
    coverage = read_coverage(_sample(tmp_path, RECORD | change, RECORD))
    assert coverage.num_rows == 2
    assert len(coverage.covered) == 1
    assert coverage.uncovered == ((reason, 1),)


def test_an_unstated_precision_is_the_checkpoints_and_is_told_apart(tmp_path):
    """Llama-3.1-8B on H100 without a precision is covered by the BF16 profile, and says that it did not say."""
    change = {"model_path": "meta-llama/Llama-3.1-8B-Instruct", "system": "h100_sxm", "tp_size": "1",
              "gemm_quant_mode": "", "precision": ""}  # fmt: skip
    (covered,) = read_coverage(_sample(tmp_path, RECORD | change)).covered
    assert covered.profile == "llama-3.1-8b-h100-tp1"
    assert not covered.row.is_precision_stated


def test_another_file_is_refused(tmp_path):
    """A CSV file without the columns is named, with the column."""
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no column 'id'"):
        read_coverage(path)
    with pytest.raises(InputError, match="can't be read"):
        read_coverage(tmp_path / "none.csv")


def test_the_halves_are_disjoint_and_do_not_depend_on_the_order():
    """Every row is in one half, each stratum is halved, and the file's order doesn't matter."""
    rows = [Covered(replace(ROW, id=f"{size} {k}", tensor_parallel=size), PROFILE) for size in (1, 8) for k in range(7)]
    first, second = split(rows)
    assert {*first} | {*second} == {*rows}
    assert not {*first} & {*second}
    assert split(rows[::-1]) == (first, second)
    for size in (1, 8):
        assert sum(covered.row.tensor_parallel == size for covered in first) in (3, 4)


@pytest.mark.parametrize("host_s", [0.0, 0.0015])
def test_the_fit_finds_the_host_time_that_made_the_rows(host_s):
    """Measurements that the simulator made itself give the constant back, and no error is left."""
    rows = _synthetic(host_s)
    assert HostSweep.of(rows).best_host_s() == pytest.approx(host_s, abs=2e-5)
    result = compare_with_silicon(Coverage(len(rows), tuple(rows), ()))
    assert result.host_s == pytest.approx(host_s, abs=2e-5)
    assert dict(result.host_s_by_engine) == pytest.approx({"vllm": host_s, "trtllm": host_s}, abs=2e-5)
    assert result.scored.tpot_mean_abs < 0.005
    assert result.fitted.num_rows + result.scored.num_rows == len(rows)
    assert sum(part.errors.num_rows for part in result.by_concurrency) == result.scored.num_rows


def test_errors_are_signed_shares_of_what_was_measured():
    """Twice and half of the measured TPOT: mean |error| 75%, bias +25%."""
    (found,) = simulate_rows([Covered(ROW, PROFILE)], 0.0)
    rows = [replace(found, tpot_s=2 * ROW.tpot_s, ttft_s=ROW.ttft_s), replace(found, tpot_s=ROW.tpot_s / 2, ttft_s=0.2)]
    errors = ErrorSummary.of(rows)
    assert (errors.tpot_mean_abs, errors.tpot_bias) == (0.75, 0.25)
    assert (errors.ttft_mean_abs, errors.ttft_bias) == (0.5, 0.5)


def test_lengths_are_drawn_as_the_protocol_says():
    """Shorter lengths by a fifth at most give a lower TTFT than the full ones; the same row gives the same answer."""
    profile = load_profile(PROFILE).profile
    covered = Covered(replace(ROW, input_tokens=4000, concurrency=4), PROFILE)
    drawn, full = simulate_row(covered, profile, PUBLIC), simulate_row(covered, profile, UNKNOWN)
    assert drawn.ttft_s < full.ttft_s
    assert simulate_row(covered, profile) == full
    public = replace(covered, row=replace(covered.row, source=f"{PUBLIC_SOURCE}; model=x"))
    assert simulate_row(public, profile).ttft_s == drawn.ttft_s


def test_a_trtllm_engine_admits_what_memory_holds_to_the_end():
    """8,192 tokens and all clients on vLLM; on TensorRT-LLM as many as fit with all of their output."""
    profile = load_profile(PROFILE).profile.with_capacity(10_000)
    row = replace(ROW, concurrency=64, source=PUBLIC_SOURCE, input_tokens=900, output_tokens=100)
    assert engine_limits(row, profile, 1000.0).batch_requests == 64
    assert engine_limits(row, profile, 1000.0).batch_tokens == 8192
    limits = engine_limits(replace(row, engine="trtllm"), profile, 1000.0)
    assert (limits.batch_tokens, limits.batch_requests) == (1200, 10)


def test_the_section_shows_every_part_and_the_result_is_data():
    """Tables by engine and band, worst rows and reasons are in the text; the result becomes JSON."""
    rows = _synthetic(0.001)
    result = compare_with_silicon(Coverage(20, tuple(rows), (("no profile of this model", 8),)))
    text = silicon_markdown(result)
    for part in ("12.", "vllm on H200", "trtllm on H200", "1 to 8", "no profile of this model", "1.00 ms"):
        assert part in text, part
    widths = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert {*widths} <= {3, 9}
    assert json.loads(json.dumps(asdict(result)))["num_rows"] == 20


@pytest.mark.slow
@pytest.mark.skipif(find_spec(PACKAGE) is None, reason="aiconfigurator-core, which has the measurements, not installed")
def test_tpot_is_within_ten_percent_of_measured_gpus():
    """Claim: over the scored half of the covered rows the mean absolute error of TPOT is at most 10%."""
    result = compare_with_silicon(read_coverage(find_sample()))
    assert result.scored.num_rows > 200
    assert result.scored.tpot_mean_abs <= 0.10
    assert np.isfinite(result.scored.ttft_mean_abs)
