"""The section on goodput, of comparisons and of goodputs alone: a table, and bars with their whiskers."""

from __future__ import annotations

from polyslo.report import markup
from polyslo.report.curves import goodput_of, is_ours, num_seeds, optimum_of, point_at, shared_rates, targets_of
from polyslo.report.goodput_figure import goodput_figure
from polyslo.report.notation import MISSING, amount_text, goodput_text, percent_cell_text, rate_text
from polyslo.report.table import best_indices
from polyslo.report.verdict import USABLE_SHARE
from polyslo.sim.results import Comparison, GoodputResult


def goodput_section(comparison: Comparison) -> str:
    """Show the goodputs of a comparison; its runs, where it has any, add what light load costs."""
    targets = targets_of(comparison)
    if not targets:
        return markup.section("Goodput", markup.paragraph("No goodput was computed for this comparison."))
    at = " and ".join(f"{target:.2f}" for target in targets)
    whisker = "; the whisker is the 95% confidence interval over seeds" if num_seeds(comparison) > 1 else ""
    return markup.section(
        "Goodput",
        _goodput_table(comparison),
        markup.figure(
            "goodput",
            f"How much load each policy carries at {at} attainment, in requests/s and as a share of "
            f"the fluid optimum. Longer is better{whisker}.",
            f"Bars: goodput of each policy at {at} attainment. The numbers are in the table above.",
            lambda width_px: goodput_figure(comparison, width_px),
        ),
    )


def _goodput_table(comparison: Comparison) -> str:
    targets = targets_of(comparison)
    optimum = optimum_of(comparison)
    head = ["Policy"]
    columns: list[list[str]] = []
    scores: list[list[float | None]] = []
    for target in targets:
        found = [goodput_of(comparison, p, target) for p in comparison.policies]
        head.append(f"Goodput at {target:.2f}")
        columns.append([goodput_text(g) for g in found])
        scores.append([None if g is None else g.rate_rps for g in found])
        if num_seeds(comparison) > 1:
            head.append("95% interval")
            columns.append([_interval(g) for g in found])
            scores.append([None] * len(found))
        if optimum:
            head.append("of optimum")
            columns.append([MISSING if g is None else percent_cell_text(g.rate_rps / optimum) for g in found])
            scores.append([None] * len(found))
    if comparison.runs:
        light = shared_rates(comparison)[0]
        points = [point_at(comparison, p, light) for p in comparison.policies]
        head.append(f"Cost at {rate_text(light)}/s")
        columns.append([MISSING if p is None else amount_text(p.cost) for p in points])
        scores.append([-p.cost if p and p.attainment >= USABLE_SHARE else None for p in points])
    best = [best_indices(column_scores, texts) for column_scores, texts in zip(scores, columns, strict=True)]
    rows = [
        markup.Row(
            policy,
            [column[i] for column in columns],
            {number for number, winners in enumerate(best) if i in winners},
            is_ours(policy),
        )
        for i, policy in enumerate(comparison.policies)
    ]
    caption = "Goodput in requests per second"
    if comparison.runs:
        caption += "; cost in instance-seconds per 1,000 attained requests"
    if any(best):
        caption += ". * best"
    if any(goodput.is_lower_bound for goodput in comparison.goodputs):
        caption += "; ≥ still attained at the highest rate that was run"
    if num_seeds(comparison) == 1:
        caption += "; one seed, hence no confidence interval"
    return markup.table(caption, head, rows)


def _interval(goodput: GoodputResult | None) -> str:
    return MISSING if goodput is None else f"{rate_text(goodput.low_rps)} to {rate_text(goodput.high_rps)}"
