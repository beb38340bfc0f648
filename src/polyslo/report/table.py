"""Results as terminal tables: a comparison with a column a policy, and one run with a column a tier.

The best value of a row is bold, coloured and starred, so that it is seen without colour too. Policies
(or tiers) are columns because they are few; rates are rows because they are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set

from rich import box
from rich.table import Table
from rich.text import Text

from polyslo.report.curves import Point, goodput_of, optimum_of, point_at, targets_of
from polyslo.report.notation import (
    MISSING,
    amount_text,
    ms_text,
    percent_cell_text,
    rate_text,
    share_text,
    tier_name,
)
from polyslo.report.verdict import USABLE_SHARE
from polyslo.sim.results import Comparison, RunResult, TierResult

BEST_STYLE = "bold green"
QUIET_STYLE = "dim"

# A quantity of one policy at one rate: how to read it, to write it, and to rank it (None: not eligible).
Quantity = tuple[str, Callable[[Point], float], Callable[[float], str], Callable[[Point], float | None]]

QUANTITIES: tuple[Quantity, ...] = (
    ("attainment", lambda p: p.attainment, share_text, lambda p: p.attainment),
    (
        "instance-s per 1k attained",
        lambda p: p.cost,
        amount_text,
        lambda p: -p.cost if p.attainment >= USABLE_SHARE else None,
    ),
    ("instances owned, mean", lambda p: p.mean_instances, amount_text, lambda p: None),
)


def comparison_table(comparison: Comparison) -> Table:
    """Tabulate goodputs, then attainment, cost and owned instances by rate; one column a policy."""
    fleet = f"{comparison.mode.upper()}, {comparison.num_instances} instances"
    table = _new_table(f"{comparison.workload}, {fleet}")
    table.caption = f"* best of the row; for cost, of those that attain {USABLE_SHARE:.2f} or more"
    _add_columns(table, "", comparison.policies)
    for target in targets_of(comparison):
        _add_goodput_rows(table, comparison, target)
    for quantity in QUANTITIES:
        _add_quantity_rows(table, comparison, quantity)
    return table


def run_table(run: RunResult) -> Table:
    """Tabulate one run by tier and in all, then placements by rung, refusals by reason and the rest."""
    table = _new_table(
        f"{run.policy} on {run.workload}: {rate_text(run.rate_rps)} requests/s, "
        f"{run.mode.upper()}, {run.num_instances} instances, seed {run.seed}"
    )
    _add_columns(table, "tier", [*(tier_name(tier.tpot_ms) for tier in run.tiers), "all"])
    for row in _run_rows(run):
        table.add_row(*row)
    _add_counts(table, run, "placements by rung", run.placements_by_rung)
    _add_counts(table, run, "refusals by reason", run.refusals_by_reason)
    rest = {"preemptions": run.num_preemptions, "TTFTs raised": run.num_ttft_raised}
    _add_counts(table, run, "in the run", {"iterations": run.num_iterations, **rest})
    return table


def best_indices(scores: Sequence[float | None], texts: Sequence[str]) -> set[int]:
    """Find the highest score and all that read the same; none when every column reads the same."""
    eligible = [i for i, score in enumerate(scores) if score is not None and texts[i] != MISSING]
    if len(set(texts)) < 2 or not eligible:
        return set()
    winner = max(eligible, key=lambda i: scores[i] or 0.0)
    return {i for i in eligible if texts[i] == texts[winner]}


def _new_table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def _add_columns(table: Table, first: str, names: Sequence[str]) -> None:
    table.add_column(first, overflow="fold")
    for name in names:
        table.add_column(Text(name, overflow="fold"), justify="right", vertical="bottom", overflow="fold")


def _add_section(table: Table, title: str) -> None:
    if table.row_count:
        table.add_section()
    table.add_row(Text(title, style="bold"))


def _add_goodput_rows(table: Table, comparison: Comparison, target: float) -> None:
    found = [goodput_of(comparison, policy, target) for policy in comparison.policies]
    scores = [None if g is None else g.rate_rps for g in found]
    texts = [MISSING if g is None else rate_text(g.rate_rps) for g in found]
    spreads = [MISSING if g is None else f"±{amount_text((g.high_rps - g.low_rps) / 2)}" for g in found]
    _add_section(table, f"goodput at {target:.2f}")
    table.add_row("  requests/s", *_cells(texts, best_indices(scores, texts)))
    table.add_row("  95% interval", *_cells(spreads), style=QUIET_STYLE)
    if optimum := optimum_of(comparison):
        shares = [MISSING if score is None else percent_cell_text(score / optimum) for score in scores]
        table.add_row(f"  of fluid {rate_text(optimum)}", *_cells(shares), style=QUIET_STYLE)


def _add_quantity_rows(table: Table, comparison: Comparison, quantity: Quantity) -> None:
    title, value, text, score = quantity
    _add_section(table, title)
    for rate in comparison.rates_rps:
        points = [point_at(comparison, policy, rate) for policy in comparison.policies]
        texts = [MISSING if p is None else text(value(p)) for p in points]
        scores = [None if p is None else score(p) for p in points]
        table.add_row(f"  at {rate_text(rate)}/s", *_cells(texts, best_indices(scores, texts)))


def _cells(texts: Sequence[str], best: Set[int] = frozenset()) -> Iterator[Text]:
    """Pad every text by the width of the star, so that digits stay aligned."""
    for i, text in enumerate(texts):
        yield Text(f"{text}*", style=BEST_STYLE) if i in best else Text(f"{text} ")


def _run_rows(run: RunResult) -> Iterator[list[str]]:
    counts: tuple[tuple[str, Callable[[TierResult], int]], ...] = (
        ("requests", lambda t: t.num_requests),
        ("attained", lambda t: t.num_attained),
        ("missed", lambda t: t.num_missed),
        ("relegated", lambda t: t.num_relegated),
        ("refused", lambda t: t.num_refused),
    )
    times: tuple[tuple[str, Callable[[TierResult], float]], ...] = (
        ("TTFT p50 (ms)", lambda t: t.ttft_p50_s),
        ("TTFT p99 (ms)", lambda t: t.ttft_p99_s),
        ("TPOT p50 (ms)", lambda t: t.tpot_p50_s),
        ("TPOT p99 (ms)", lambda t: t.tpot_p99_s),
    )
    for label, count in counts:
        numbers = [count(tier) for tier in run.tiers]
        yield [label, *(f"{n:,}" for n in numbers), f"{sum(numbers):,}"]
    yield ["attainment", *(share_text(t.attainment) for t in run.tiers), share_text(run.attainment)]
    for label, time_s in times:
        yield [label, *(ms_text(time_s(tier)) for tier in run.tiers), ""]
    owned = [tier.instance_seconds for tier in run.tiers]
    yield ["instance-seconds", *(f"{s:,.0f}" for s in owned), f"{run.instance_seconds:,.0f}"]
    yield ["instances, mean", *(amount_text(s / run.span_s) for s in [*owned, run.instance_seconds])]


def _add_counts(table: Table, run: RunResult, title: str, counts: dict[str, int]) -> None:
    """Add counts that no tier owns, in the column of the whole run."""
    if not counts:
        return
    _add_section(table, title)
    for name, count in counts.items():
        table.add_row(f"  {name}", *("" for _ in run.tiers), f"{count:,}")
