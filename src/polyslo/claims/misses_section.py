"""Who misses where polyserve serves less of the fluid optimum than it should: which tiers, which requests, and why."""

from __future__ import annotations

from collections.abc import Sequence

from polyslo.claims.markdown import bold, opening, plain, table
from polyslo.claims.numbers import target_text
from polyslo.claims.results import Cell, Claims
from polyslo.claims.verdict import LEAST_SHARE, by_mode
from polyslo.claims.work import RELAXED_RATIO, Misses
from polyslo.report.notation import MISSING, mode_text, percent_cell_text, share_text
from polyslo.workload.slo import RAISED_TO_IDLE

# What walking such requests through the journal has shown.
TIGHT = (
    "**Tight ones**: a prompt that is long for its TTFT. Co-located it needs an instance whose iterations are nearly "
    "its own, with few decodes and no other prompt that is due earlier; disaggregated, a prefill instance with hardly "
    "a queue. Near the optimum all instances are owned, and full of decodes or of prompts that leave no room before "
    "their own deadlines. Continuous chunked prefill prediction foresees on arrival that the first token would be "
    "late, and the request is relegated instead of making others late. The fluid optimum has no TTFTs in it. Where "
    "prompts are longest, the tightest tier suffers most, co-located: its short iterations have little to give "
    "beside decodes, and no tighter tier takes what it refuses."
)
BURSTS = (
    "**Bursts**: most misses of the Azure traces with their own arrivals are in bursts, which the fluid optimum "
    "spreads evenly over time."
)
WHOLE = (
    "**Whole instances**: decode tiers own whole instances, so what they leave to prefill is hardly more than its mean "
    "need, and longer TTFTs help less than co-located."
)
SPARE_RATIO = 1.1  # of the mean need: what is left to prefill is hardly more


def misses_section(claims: Claims) -> str:
    """Tabulate the misses at the least share of the optimum, by mode; empty where it is served everywhere."""
    tables = [part for mode, cells in by_mode(claims) for part in _of_mode(mode, cells)]
    if not tables:
        return ""
    first, share = target_text(claims.targets[0]), percent_cell_text(LEAST_SHARE)
    return "\n\n".join(
        [
            f"### Who misses at {share} of the fluid optimum",
            f"Polyserve's requests at {share} of the fluid optimum, first seed, on every workload where it serves less "
            f"than that at {first}. *Not promised*: never placed, as no instance could promise the first token (or "
            "the second, the pace, or memory) in time. *Tight*: the TTFT is at most "
            f"{RAISED_TO_IDLE:g} times what the prompt takes alone on an idle instance. *In a burst*: the second "
            "around its arrival brings more prompt tokens than a second at the fluid optimum does on average. The last "
            "column is a run of the same requests with longer TTFTs.",
            *tables,
            TIGHT,
            BURSTS,
            *([WHOLE] if any(_is_scarce(cell.misses) for cell in claims.cells) else []),
        ]
    )


def _of_mode(mode: str, cells: Sequence[Cell]) -> list[str]:
    rows = [[plain(cell.workload), *_row(cell.misses, mode)] for cell in cells if cell.misses]
    if not rows:
        return []
    prefill = ["left to prefill, of its need"] if mode == "pd" else []
    tpots_ms = next(cell.tpots_ms for cell in cells if cell.misses)
    header = [
        "workload",
        "attainment",
        *(f"{tpot_ms:g} ms tier" for tpot_ms in tpots_ms),
        "of the misses: not promised",
        "their first token not",
        "tight, of all",
        "of the misses",
        "in a burst, of all",
        "of the misses",
        "median prompt, of all",
        "of the misses",
        *prefill,
        f"attainment with TTFTs {RELAXED_RATIO:g}x as long",
    ]
    return [bold(opening(mode_text(mode))), table(header, rows, "l" + "r" * (len(header) - 1))]


def _is_scarce(found: Misses | None) -> bool:
    """Tell whether the prefill side can have hardly more than it needs on average."""
    return found is not None and 0 < found.left_for_prefill < SPARE_RATIO * found.prefill_need


def _row(found: Misses, mode: str) -> list[str]:
    requests, missed = sum(found.tier_requests), sum(found.tier_missed)
    pairs = [(requests, missed), *zip(found.tier_requests, found.tier_missed, strict=True)]
    return [
        *(share_text(1 - gone / count) if count else MISSING for count, gone in pairs),
        _part(found.num_unpromised, missed),
        _part(found.num_first_token, missed),
        _part(found.num_tight, requests),
        _part(found.num_tight_missed, missed),
        _part(found.num_burst, requests),
        _part(found.num_burst_missed, missed),
        f"{found.prompt_tokens:,.0f}",
        f"{found.missed_prompt_tokens:,.0f}" if missed else MISSING,
        *([f"{found.left_for_prefill:.1f} of {found.prefill_need:.1f}"] if mode == "pd" else []),
        share_text(found.relaxed_attainment),
    ]


def _part(count: int, total: int) -> str:
    return f"{count / total:.0%}" if total else MISSING
