"""Against silicon: what the simulated engine says where real engines were measured, and how wrong it is.

Each covered row is simulated as it was measured: a closed loop on one engine. One constant is fitted, the engine's
own time per step, on half of the rows; the errors are those of the other half.

How the rows were measured, where it is known:

- Llama-3.1-70B comes from a public benchmark (InferenceMAX, October 2025; its scripts `70b_fp8_*.sh` are on GitHub):
  10 prompts a client, all clients at once and nothing skipped, lengths drawn evenly from 80% to 100% of the nominal
  ones (the script leaves that ratio to its caller; 0.8 is what its callers say). The file does not name this
  benchmark: shapes, concurrencies, sizes and dates are the same.
- Of the others nothing is known but lengths and concurrency: fixed lengths, ten requests a client, two of them warm-up.

What the engines are configured with:

- vLLM: 8,192 batched tokens, in those scripts and by default on such GPUs.
- TensorRT-LLM: 8,192 by default; in those scripts 16,384 on B200, and on the others the longest request allowed,
  taken as prompt + output + 200. It admits a request only when KV memory is left for all of its output, so no more
  decode than memory holds to their end. (It does not cut prompts by default; here they are cut, which leaves the work
  the same. In those scripts it also waits up to 20 iterations for more prompts, in part of the runs: not simulated.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt

from polyslo.claims.closed_loop import EngineLimits, LoopResult, run_closed_loop
from polyslo.claims.silicon_rows import Coverage, Covered, Row, split
from polyslo.core.profile import Profile
from polyslo.profiles.library import load_profile

HOST_GRID_S = (0.0, 1e-3, 2e-3, 3e-3, 4e-3)  # simulated; between them a row's TPOT is a straight line
HOST_STEP_S = 1e-5
BANDS = ((1, 8), (9, 16), (17, 32), (33, 64), (65, 1024))  # of concurrency, both ends included
LENGTH_SEED = 0
PUBLIC_SOURCE = "source_file=2026-04-06.csv"


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a benchmark drives the engine; `least_length_ratio` is the shortest length over the nominal one."""

    least_length_ratio: float
    requests_per_client: int
    unscored_per_client: int


PUBLIC = Protocol(least_length_ratio=0.8, requests_per_client=10, unscored_per_client=0)
UNKNOWN = Protocol(least_length_ratio=1.0, requests_per_client=10, unscored_per_client=2)


@dataclass(frozen=True, slots=True)
class SimulatedRow:
    """A measured row and what the simulator says. Times in seconds."""

    row: Row
    profile: str
    ttft_s: float
    tpot_s: float
    num_preemptions: int

    @property
    def tpot_error(self) -> float:
        """Simulated over measured, less 1."""
        return self.tpot_s / self.row.tpot_s - 1

    @property
    def ttft_error(self) -> float:
        """Simulated over measured, less 1."""
        return self.ttft_s / self.row.ttft_s - 1


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """Relative errors of some rows: simulated over measured, less 1. `bias` is their mean, with its sign."""

    num_rows: int
    tpot_mean_abs: float
    tpot_median_abs: float
    tpot_bias: float
    ttft_mean_abs: float
    ttft_median_abs: float
    ttft_bias: float

    @classmethod
    def of(cls, rows: Sequence[SimulatedRow]) -> ErrorSummary:
        """Summarize at least one row."""
        tpot = np.array([row.tpot_error for row in rows])
        ttft = np.array([row.ttft_error for row in rows])
        return cls(len(rows), *_three(tpot), *_three(ttft))


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the scored rows, named as a table shows it."""

    name: str
    errors: ErrorSummary


@dataclass(frozen=True, slots=True)
class SiliconResult:
    """The comparison. `fitted` and `scored` are the halves; the parts are of the scored half.

    `unstated` are the covered rows that don't say their precision: simulated with the same constant, in no half.
    """

    num_rows: int
    num_covered: int
    uncovered: tuple[tuple[str, int], ...]
    host_s: float
    host_s_by_engine: tuple[tuple[str, float], ...]  # what each engine's rows alone ask for; not used
    fitted: ErrorSummary
    scored: ErrorSummary
    by_engine: tuple[Part, ...]
    by_model: tuple[Part, ...]
    by_concurrency: tuple[Part, ...]
    unstated: ErrorSummary | None
    rows: tuple[SimulatedRow, ...]  # the scored half


def compare_with_silicon(coverage: Coverage) -> SiliconResult:
    """Fit the host time on one half of the rows that state their precision, score the other half.

    Simulates each fitted row once for every value of `HOST_GRID_S`; a few hundred rows take half a minute.
    """
    stated = [covered for covered in coverage.covered if covered.row.is_precision_stated]
    for_fit, for_score = split(stated)
    sweep = HostSweep.of(for_fit)
    host_s = sweep.best_host_s()
    scored = simulate_rows(for_score, host_s)
    unstated = simulate_rows([c for c in coverage.covered if not c.row.is_precision_stated], host_s)
    engines = sorted({covered.row.engine for covered in for_fit})
    return SiliconResult(
        num_rows=coverage.num_rows,
        num_covered=len(coverage.covered),
        uncovered=coverage.uncovered,
        host_s=host_s,
        host_s_by_engine=tuple((engine, sweep.of_engine(engine).best_host_s()) for engine in engines),
        fitted=ErrorSummary.of(simulate_rows(for_fit, host_s)),
        scored=ErrorSummary.of(scored),
        by_engine=_parts(scored, lambda row: f"{row.engine} on {row.gpu.split('_')[0].upper()}"),
        by_model=_parts(scored, lambda row: row.model),
        by_concurrency=_parts(scored, _band),
        unstated=ErrorSummary.of(unstated) if unstated else None,
        rows=scored,
    )


@dataclass(frozen=True, slots=True, eq=False)
class HostSweep:
    """Rows simulated with every host time of `HOST_GRID_S`: TPOTs of shape (rows, grid), seconds."""

    rows: tuple[Row, ...]
    tpots_s: npt.NDArray[np.float64]

    @classmethod
    def of(cls, covered: Sequence[Covered]) -> HostSweep:
        """Simulate the rows; at least one."""
        columns = [[row.tpot_s for row in simulate_rows(covered, host_s)] for host_s in HOST_GRID_S]
        return cls(tuple(c.row for c in covered), np.array(columns).T)

    def of_engine(self, engine: str) -> HostSweep:
        """Return the part that one engine's rows make."""
        chosen = np.array([row.engine == engine for row in self.rows])
        return HostSweep(tuple(row for row in self.rows if row.engine == engine), self.tpots_s[chosen])

    def best_host_s(self) -> float:
        """Return the host time per step, seconds, with the least mean absolute TPOT error: a multiple of 10 us."""
        measured_s = np.array([[row.tpot_s] for row in self.rows])
        candidates_s = np.arange(0.0, HOST_GRID_S[-1] + HOST_STEP_S / 2, HOST_STEP_S)
        simulated_s = np.array([np.interp(candidates_s, HOST_GRID_S, tpots_s) for tpots_s in self.tpots_s])
        return float(candidates_s[np.argmin(np.abs(simulated_s / measured_s - 1).mean(axis=0))])


def simulate_rows(rows: Iterable[Covered], host_s: float) -> tuple[SimulatedRow, ...]:
    """Simulate rows, each on its profile with the host time given."""
    profile_of = cache(lambda name: load_profile(name, host_s=host_s).profile)
    return tuple(simulate_row(covered, profile_of(covered.profile)) for covered in rows)


def simulate_row(covered: Covered, profile: Profile, protocol: Protocol | None = None) -> SimulatedRow:
    """Simulate one row; `protocol` is how it was measured, by default what its source tells."""
    row = covered.row
    protocol = protocol or (PUBLIC if row.source.startswith(PUBLIC_SOURCE) else UNKNOWN)
    random = np.random.default_rng(LENGTH_SEED)
    count = protocol.requests_per_client * row.concurrency
    inputs, outputs = (
        random.integers(max(2, int(protocol.least_length_ratio * most)), most + 1, count)
        for most in (row.input_tokens, row.output_tokens)
    )
    found: LoopResult = run_closed_loop(
        profile,
        engine_limits(row, profile, float(np.mean(inputs + outputs))),
        row.concurrency,
        inputs,
        outputs,
        num_unscored=protocol.unscored_per_client * row.concurrency,
    )
    return SimulatedRow(row, covered.profile, found.ttft_s, found.tpot_s, found.num_preemptions)


def engine_limits(row: Row, profile: Profile, request_tokens: float) -> EngineLimits:
    """Return the bounds of an iteration; `request_tokens` is a request's KV at its end, on average."""
    limits = EngineLimits(batch_tokens=8192, batch_requests=row.concurrency)
    if row.engine != "trtllm":
        return limits
    if row.source.startswith(PUBLIC_SOURCE):
        tokens = 16_384 if row.gpu == "b200_sxm" else row.input_tokens + row.output_tokens + 200
        limits = replace(limits, batch_tokens=tokens)
    held = int(profile.kv_capacity_tokens / request_tokens)
    return replace(limits, batch_requests=max(1, min(row.concurrency, held)))


def _three(errors: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    return float(np.abs(errors).mean()), float(np.median(np.abs(errors))), float(errors.mean())


def _parts(rows: Sequence[SimulatedRow], name_of: Callable[[Row], str]) -> tuple[Part, ...]:
    names = dict.fromkeys(name_of(row.row) for row in sorted(rows, key=lambda row: row.row.concurrency))
    groups = {name: [row for row in rows if name_of(row.row) == name] for name in names}
    if name_of is not _band:
        groups = dict(sorted(groups.items()))
    return tuple(Part(name, ErrorSummary.of(group)) for name, group in groups.items())


def _band(row: Row) -> str:
    low, high = next(band for band in BANDS if band[0] <= row.concurrency <= band[1])
    return f"{low} to {high}"
