"""What may differ from the usual case: engines, telemetry, lengths, sizes, tiers, mixes, bursts, cold starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from polyslo.claims.cases import Case

USUAL = "azure2023-conv"
SIZES = (4, 8, 16, 64, 256, 1024)
NUM_TIERS = (2, 3, 6, 8)
COLD_STARTS_S = (0.0, 10.0, 30.0, 120.0)  # at light load, where instances come and go


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One level of one thing that differs from the usual case."""

    topic: str
    level: str
    case: Case


def disturbances(mode: str) -> list[Disturbance]:
    """Return all levels of all topics, in the order of the tables."""
    return [Disturbance(*entry) for entry in _levels(Case(USUAL, mode))]


def cold_starts(mode: str) -> list[tuple[float, Case]]:
    """Return the usual case with each cold start that is looked at where load is light."""
    usual = Case(USUAL, mode)
    return [(start_s, usual.having(cold_start_s=start_s) if start_s else usual) for start_s in COLD_STARTS_S]


def _levels(usual: Case) -> Iterator[tuple[str, str, Case]]:
    yield "nothing", "the usual case", usual
    for noise, margin in ((0.05, 0.0), (0.1, 0.0), (0.2, 0.0), (0.05, 0.1), (0.1, 0.2), (0.2, 0.3)):
        level = f"{100 * noise:g}%" + (f", margin {100 * margin:g}%" if margin else "")
        yield "iteration noise", level, usual.having(noise_ratio=noise, margin_ratio=margin)
    for ratio, margin in ((0.8, 0.0), (0.9, 0.0), (1.1, 0.0), (1.2, 0.0), (1.1, 0.1), (1.2, 0.2)):
        level = f"iterations take {100 * (ratio - 1):+g}%" + (f", margin {100 * margin:g}%" if margin else "")
        slow = usual.having(num_stragglers=usual.num_instances, slowness=ratio, margin_ratio=margin)
        yield "profile error", level, slow
    for lengths in ("known", "mean"):
        yield "output lengths", {"known": "known", "mean": "the tier's mean"}[lengths], usual.having(lengths=lengths)
    for ratio in (0.5, 2.0):
        yield "output lengths", f"told {ratio:g}x", usual.having(lengths="known", known_ratio=ratio)
    for delay_s in (0.01, 0.05, 0.1, 0.5):
        yield "telemetry delay", f"{1e3 * delay_s:g} ms", usual.having(telemetry_delay_s=delay_s)
    for cold_start_s in (2.0, 10.0, 30.0, 120.0):
        yield "cold start", f"{cold_start_s:g} s", usual.having(cold_start_s=cold_start_s)
    for cv in (2, 4):
        yield "bursts (gamma)", f"CV {cv}", replace(usual, arrivals=f"gamma:{cv}")
    yield "mix that moves", "drifts", replace(usual, slo="drifting")
    yield "mix that moves", "flips", replace(usual, slo="flipping")
    for count in NUM_TIERS:
        yield "tiers", str(count), replace(usual, slo=f"tiers-{count}")
    for size in SIZES:
        yield "instances", f"{size:,}", replace(usual, num_instances=size)
