"""A trace: when requests arrived and how long their prompts and outputs were.

Everything that enters this room as numbers passes `Trace.from_columns`, the one place that validates rows.
Reading files is in `readers`, drawing traces from a fitted model in `model`, giving requests SLOs in `slo`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polyslo.errors import InputError, TraceError
from polyslo.workload.origin import Origin

MAX_TOKENS = 10_000_000  # a longer prompt or output is a wrong column, not a request


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Requests in order of arrival; every array has length n >= 1. Treat the arrays as read-only.

    Make one with `from_columns`, which checks, sorts and starts the clock at 0; the constructor trusts its
    arguments. A trace of lengths only has NaN arrivals and `has_arrivals` False: see `with_arrivals`.
    """

    name: str
    arrival_s: NDArray[np.float64]  # [n] seconds, ascending, the first is 0; all NaN when only lengths are known
    input_tokens: NDArray[np.int32]  # [n] >= 1
    output_tokens: NDArray[np.int32]  # [n] >= 1
    prefix_hash_ids: tuple[NDArray[np.int64], ...] | None = None  # per request: ids of its prompt's blocks
    session_id: NDArray[Any] | None = None  # [n] equal ids belong to one conversation
    client_id: NDArray[Any] | None = None  # [n] equal ids belong to one caller
    notices: tuple[str, ...] = ()  # what a reader should know: rows sorted, dropped, estimated
    origin: Origin | None = None  # where each request was read from, in the order of the requests

    @classmethod
    def from_columns(
        cls,
        name: str,
        arrival_s: ArrayLike | None,
        input_tokens: ArrayLike,
        output_tokens: ArrayLike,
        *,
        prefix_hash_ids: Sequence[ArrayLike] | None = None,
        session_id: ArrayLike | None = None,
        client_id: ArrayLike | None = None,
        notices: Sequence[str] = (),
        origin: Origin | None = None,
    ) -> Self:
        """Check the columns and make a trace of them; arrivals are sorted (with a notice) and start at 0.

        `arrival_s` is in seconds from any origin, or None for lengths only.
        Raises `TraceError` naming the file, line and column (from `origin`) of the first bad value: no rows,
        columns of different length, a NaN, infinite or negative time, a prompt or output below one token.
        """
        known, origin = origin, origin or Origin(name)
        inputs, outputs = _tokens(input_tokens), _tokens(output_tokens)
        if inputs.ndim != 1 or not len(inputs):
            dropped = f" ({'; '.join(notices)})" if notices else ""
            raise TraceError(f"{origin.path}: no requests{dropped}; a trace needs at least one row")
        _check_lengths(inputs, "input_tokens", origin)
        _check_lengths(outputs, "output_tokens", origin)
        if len(inputs) != len(outputs):
            raise TraceError(f"{origin.path}: {len(inputs)} input lengths but {len(outputs)} output lengths")
        trace = cls(
            name,
            np.full(len(inputs), np.nan),
            inputs.astype(np.int32),
            outputs.astype(np.int32),
            None if prefix_hash_ids is None else tuple(np.asarray(ids, np.int64) for ids in prefix_hash_ids),
            None if session_id is None else np.asarray(session_id),
            None if client_id is None else np.asarray(client_id),
            tuple(notices),
            None if known is None else known.numbered(len(inputs)),
        )
        _check_optional_columns(trace, origin)
        return trace if arrival_s is None else trace._arriving(np.asarray(arrival_s, np.float64), origin)

    def __len__(self) -> int:
        return len(self.input_tokens)

    @property
    def has_arrivals(self) -> bool:
        """False when the trace is one of lengths only."""
        return not np.isnan(self.arrival_s[0])

    @property
    def span_s(self) -> float:
        """Seconds from the first to the last arrival; NaN without arrivals."""
        return float(self.arrival_s[-1] - self.arrival_s[0])

    @property
    def rate_rps(self) -> float:
        """Mean arrival rate, (n - 1) / span; NaN without arrivals or when all arrive at once."""
        return (len(self) - 1) / self.span_s if self.span_s > 0 else float("nan")

    def place(self, row: int) -> str:
        """Name a request by where it was read: `conv.csv, line 12`."""
        return f"trace {self.name!r}, request {row}" if self.origin is None else self.origin.row(row)

    def head(self, num_requests: int) -> Self:
        """Keep the first `num_requests` requests (all of them if there are fewer)."""
        if num_requests < 1:
            raise InputError(f"trace {self.name!r}: num_requests must be >= 1, got {num_requests}")
        return self._rows(slice(0, num_requests))

    def at_rate(self, rate_rps: float) -> Self:
        """Stretch or squeeze the clock to a mean rate of `rate_rps`; CV and on/off shares stay."""
        if not rate_rps > 0 or not np.isfinite(rate_rps):
            raise InputError(f"trace {self.name!r}: rate_rps must be > 0 and finite, got {rate_rps:g}")
        if not np.isfinite(self.rate_rps):
            raise TraceError(
                f"trace {self.name!r}: has no rate to scale, it needs two arrivals at different times; "
                "draw arrivals and use with_arrivals"
            )
        return replace(self, arrival_s=self.arrival_s * (self.rate_rps / rate_rps))

    def repeated(self, num_requests: int, seed: int) -> Self:
        """Tile the trace to `num_requests` requests (or cut it, when it is longer).

        The first copy is the trace itself; each further copy is turned to begin at a random row, so that the
        copies are not aligned. Prefix blocks and sessions of each copy are new: repeating must not invent
        cache hits.
        """
        num_copies = -(-num_requests // len(self))
        if num_copies <= 1:
            return self.head(num_requests)
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        phases = [0, *rng.integers(0, len(self), num_copies - 1).tolist()]
        rows = np.concatenate([np.roll(np.arange(len(self)), -phase) for phase in phases])[:num_requests]
        copy = np.arange(num_requests) // len(self)
        tiled = self._rows(rows)
        return replace(
            tiled,
            arrival_s=_tiled_arrivals(self, phases)[:num_requests],
            prefix_hash_ids=_fresh_blocks(tiled.prefix_hash_ids, copy),
            session_id=_fresh_sessions(tiled.session_id, copy),
            notices=(*self.notices, f"{len(self)} requests repeated to {num_requests}"),
        )

    def with_arrivals(self, arrival_s: ArrayLike) -> Self:
        """Replace the arrival times (seconds, one per request); the lengths stay in their order."""
        return self._arriving(np.asarray(arrival_s, np.float64), Origin(f"trace {self.name!r}"), sort_rows=False)

    def jittered(self, step_s: float, seed: int) -> Self:
        """Add U[0, step_s) to every arrival: undoes a clock that was rounded down to steps of `step_s`."""
        if not step_s > 0:
            raise InputError(f"trace {self.name!r}: jitter must be > 0 s, got {step_s:g}")
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        moved = self.arrival_s + rng.uniform(0.0, step_s, len(self))
        order = np.argsort(moved, kind="stable")
        note = f"arrivals jittered by up to {step_s:g} s (seed {seed})"
        rows = self._rows(order)
        return replace(rows, arrival_s=moved[order] - moved[order[0]], notices=(*self.notices, note))

    def _rows(self, rows: slice | NDArray[np.int64]) -> Self:
        hashes = self.prefix_hash_ids
        if hashes is not None:
            chosen = range(len(self))[rows] if isinstance(rows, slice) else rows
            hashes = tuple(hashes[int(row)] for row in chosen)
        return replace(
            self,
            arrival_s=self.arrival_s[rows],
            input_tokens=self.input_tokens[rows],
            output_tokens=self.output_tokens[rows],
            prefix_hash_ids=hashes,
            session_id=None if self.session_id is None else self.session_id[rows],
            client_id=None if self.client_id is None else self.client_id[rows],
            origin=None if self.origin is None else self.origin.chosen(rows),
        )

    def _arriving(self, arrival_s: NDArray[np.float64], origin: Origin, sort_rows: bool = True) -> Self:
        _check_arrivals(arrival_s, len(self), origin)
        num_disordered = int(np.count_nonzero(np.diff(arrival_s) < 0))
        if not num_disordered:
            return replace(self, arrival_s=arrival_s - arrival_s[0])
        order = np.argsort(arrival_s, kind="stable")
        trace = self._rows(order) if sort_rows else self
        arrival_s = arrival_s[order]
        note = f"{num_disordered} arrivals were out of order: sorted"
        return replace(trace, arrival_s=arrival_s - arrival_s[0], notices=(*self.notices, note))


def _tokens(values: ArrayLike) -> NDArray[np.float64]:
    # float64 holds every sane token count exactly, and still shows NaN and fractions to the checks
    return np.asarray(values, np.float64)


def _check_lengths(tokens: NDArray[np.float64], column: str, origin: Origin) -> None:
    good = (tokens >= 1) & (tokens <= MAX_TOKENS) & (tokens == np.floor(tokens))
    if not good.all():
        row = int(np.argmin(good))
        raise TraceError(
            f"{origin.cell(row, column)}: {column} must be a whole number from 1 to {MAX_TOKENS:,}, "
            f"got {tokens[row]:.10g}; correct or remove the row"
        )


def _check_arrivals(arrival_s: NDArray[np.float64], num_requests: int, origin: Origin) -> None:
    if arrival_s.shape != (num_requests,):
        raise TraceError(f"{origin.path}: {num_requests} requests but {arrival_s.size} arrival times")
    good = np.isfinite(arrival_s) & (arrival_s >= 0)
    if not good.all():
        row = int(np.argmin(good))
        raise TraceError(
            f"{origin.cell(row, 'arrival_s')}: arrival must be >= 0 s and finite, got {arrival_s[row]:g}; "
            "correct or remove the row"
        )


def _check_optional_columns(trace: Trace, origin: Origin) -> None:
    optional = {
        "prefix_hash_ids": trace.prefix_hash_ids,
        "session_id": trace.session_id,
        "client_id": trace.client_id,
    }
    for column, values in optional.items():
        if values is not None and len(values) != len(trace):
            raise TraceError(f"{origin.path}: {len(trace)} requests but {len(values)} values in {column}")


def _tiled_arrivals(trace: Trace, phases: Sequence[int]) -> NDArray[np.float64]:
    if not trace.has_arrivals:
        return np.full(len(trace) * len(phases), np.nan)
    mean_gap_s = trace.span_s / max(1, len(trace) - 1)
    cycle_s = trace.span_s + mean_gap_s  # the seam between the last and the first row is one mean gap wide
    copies = []
    for index, phase in enumerate(phases):
        turned = np.roll(trace.arrival_s, -phase) - trace.arrival_s[phase]
        copies.append(np.where(turned < 0, turned + cycle_s, turned) + index * cycle_s)
    return np.concatenate(copies)


def _fresh_blocks(
    blocks: tuple[NDArray[np.int64], ...] | None, copy: NDArray[np.int64]
) -> tuple[NDArray[np.int64], ...] | None:
    if blocks is None:
        return None
    stride = 1 + max((int(ids.max()) for ids in blocks if len(ids)), default=0)
    return tuple(ids + int(index) * stride for ids, index in zip(blocks, copy, strict=True))


def _fresh_sessions(session_id: NDArray[Any] | None, copy: NDArray[np.int64]) -> NDArray[Any] | None:
    if session_id is None:
        return None
    _, dense = np.unique(session_id, return_inverse=True)
    return np.asarray(dense + copy * (int(dense.max()) + 1))
