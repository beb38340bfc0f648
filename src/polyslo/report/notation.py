"""Numbers as text, the same in tables, figures and pages. A missing value is a dash everywhere."""

from __future__ import annotations

import math

from polyslo.sim.results import GoodputResult

MISSING = "-"


def share_text(share: float) -> str:
    """Write a share of requests with three decimals, cut and not rounded: 0.9899 must not read 0.990."""
    if not math.isfinite(share):
        return MISSING
    return f"{math.floor(share * 1000 + 1e-9) / 1000:.3f}"


def percent_text(share: float) -> str:
    """Write a share as a percentage with at most one decimal, cut like `share_text`: 0.9655 is 96.5%."""
    if not math.isfinite(share):
        return MISSING
    return f"{math.floor(share * 1000 + 1e-9) / 10:g}%"


def percent_cell_text(share: float) -> str:
    """Write a share as `percent_text` does, but always with its decimal, so that a column lines up."""
    if not math.isfinite(share):
        return MISSING
    return f"{math.floor(share * 1000 + 1e-9) / 10:.1f}%"


def rate_text(rate_rps: float) -> str:
    """Write requests per second: whole from 100 up, else with one decimal (412, 41.2, 4.1)."""
    if not math.isfinite(rate_rps):
        return MISSING
    return f"{rate_rps:,.0f}" if abs(rate_rps) >= 100 else f"{rate_rps:.1f}".removesuffix(".0")


def goodput_text(goodput: GoodputResult | None) -> str:
    """Write a goodput in requests per second: `≥ 412` when it is a lower bound, a dash when there is none."""
    if goodput is None:
        return MISSING
    return ("≥ " if goodput.is_lower_bound else "") + rate_text(goodput.rate_rps)


def amount_text(amount: float) -> str:
    """Write an amount with about three significant digits (1,234, 56.7, 8.90)."""
    if not math.isfinite(amount):
        return MISSING
    decimals = 0 if abs(amount) >= 100 else 1 if abs(amount) >= 10 else 2
    return f"{amount:,.{decimals}f}"


def ms_text(seconds: float) -> str:
    """Write a time in milliseconds: whole from 100 up, else with one decimal."""
    if not math.isfinite(seconds):
        return MISSING
    return f"{1000 * seconds:,.0f}" if seconds >= 0.0995 else f"{1000 * seconds:.1f}"


def tier_name(tpot_ms: float) -> str:
    """Name a tier by its TPOT, as everywhere in the reports: `20 ms`."""
    return f"{tpot_ms:g} ms"


def mode_text(mode: str) -> str:
    """Write a mode in words."""
    return {"co": "co-located (CO)", "pd": "disaggregated (PD)"}.get(mode, mode)


def count_text(number: int, noun: str) -> str:
    """Write a number with its noun: `1 seed`, `2 seeds`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
