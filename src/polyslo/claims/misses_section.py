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
REASON = (
    "Those that miss are prompts that are long for their TTFT. Co-located, such a prompt needs an instance whose "
    "iterations are nearly its own: few decodes, and no other prompt that is due earlier. Disaggregated, it needs a "
    "prefill instance with hardly a queue. Near the optimum all instances are owned, and full of decodes or of prompts "
    "that leave no room before their own deadlines; continuous chunked prefill prediction foresees on arrival that the "
    "first token would be late, and the request is relegated instead of making others late. The fluid optimum has no "
    "TTFTs in it, and spreads prompts evenly over time and instances. Co-located, the tightest tier suffers "
    "most where prompts are longest: its short iterations have little to give beside decodes, and no tighter tier "
    "takes what it refuses."
)


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
            f"{RAISED_TO_IDLE:g} times what the prompt takes alone on an idle instance. The last column is a run of "
            "the same requests with longer TTFTs.",
            *tables,
            REASON,
        ]
    )


def _of_mode(mode: str, cells: Sequence[Cell]) -> list[str]:
    rows = [[plain(cell.workload), *_row(cell.misses)] for cell in cells if cell.misses]
    if not rows:
        return []
    tpots_ms = next(cell.tpots_ms for cell in cells if cell.misses)
    header = [
        "workload",
        "attainment",
        *(f"{tpot_ms:g} ms tier" for tpot_ms in tpots_ms),
        "of the misses: not promised",
        "their first token not",
        "tight, of all",
        "tight, of the misses",
        "median prompt, of all",
        "of the misses",
        f"attainment with TTFTs {RELAXED_RATIO:g}x as long",
    ]
    return [bold(opening(mode_text(mode))), table(header, rows, "l" + "r" * (len(header) - 1))]


def _row(found: Misses) -> list[str]:
    requests, missed = sum(found.tier_requests), sum(found.tier_missed)
    pairs = [(requests, missed), *zip(found.tier_requests, found.tier_missed, strict=True)]
    return [
        *(share_text(1 - gone / count) if count else MISSING for count, gone in pairs),
        _part(found.num_unpromised, missed),
        _part(found.num_first_token, missed),
        _part(found.num_tight, requests),
        _part(found.num_tight_missed, missed),
        f"{found.prompt_tokens:,.0f}",
        f"{found.missed_prompt_tokens:,.0f}" if missed else MISSING,
        share_text(found.relaxed_attainment),
    ]


def _part(count: int, total: int) -> str:
    return f"{count / total:.0%}" if total else MISSING
