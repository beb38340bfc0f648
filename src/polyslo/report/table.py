"""Results as terminal tables: a comparison with a row a policy, and one run with a column a tier.

The best value of a column is bold, coloured and starred, so that it is seen without colour too. What does not
fit the terminal's width is left out, whole columns at a time, and never folded: the least telling numbers first,
then rates in between. JSON and pages have everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from polyslo.report.curves import Point, goodput_of, num_seeds, optimum_of, point_at, targets_of
from polyslo.report.notation import (
    MISSING,
    amount_text,
    goodput_text,
    ms_text,
    percent_cell_text,
    rate_text,
    share_text,
    tier_name,
)
from polyslo.report.verdict import USABLE_SHARE, lead_text
from polyslo.sim.results import Comparison, GoodputResult, RunResult, TierResult

BEST_STYLE = "bold green"
QUIET_STYLE = "dim"

# A quantity of one policy at one rate: its title, how to read and write it, and to rank it (None: not eligible).
Quantity = tuple[str, Callable[[Point], float], Callable[[float], str], Callable[[Point], float | None]]

QUANTITIES: tuple[Quantity, ...] = (
    ("attainment", lambda p: p.attainment, share_text, lambda p: p.attainment),
    (
        "instance-seconds per 1,000 attained",
        lambda p: p.cost,
        amount_text,
        lambda p: -p.cost if p.attainment >= USABLE_SHARE else None,
    ),
)


@dataclass(frozen=True, slots=True)
class ComparisonTable:
    """A comparison for `rich` to print: goodputs, then attainment and cost by rate, as wide as the terminal."""

    comparison: Comparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay out for the width at hand."""
        comparison = self.comparison
        optimum = optimum_of(comparison)
        yield Text(
            f"{comparison.workload}, {comparison.mode.upper()}, {comparison.num_instances} instances"
            + (f", fluid optimum {rate_text(optimum)} requests/s" if optimum else ""),
            style="bold",
        )
        if targets_of(comparison):
            omissions = ((), ("optimum",), ("optimum", "interval"), ("optimum", "interval", "lead"))
            yield Text("\ngoodput, requests/s", style="bold")
            yield _widest_fitting((_goodput_table(comparison, omitted) for omitted in omissions), console, options)
        rates, num_left_out = comparison.rates_rps, 0
        choices = [_spaced(rates, count) for count in range(len(rates), 0, -1)]
        for quantity in QUANTITIES:
            yield Text(f"\n{quantity[0]}, by requests/s", style="bold")
            tables = (_quantity_table(comparison, quantity, chosen) for chosen in choices)
            table = _widest_fitting(tables, console, options)
            num_left_out = max(num_left_out, len(rates) + 1 - len(table.columns))
            yield table
        yield Text("\n" + "\n".join(_legend(comparison, num_left_out)), style=QUIET_STYLE)


def comparison_table(comparison: Comparison) -> ComparisonTable:
    """Tabulate goodputs, then attainment and cost by rate; one row a policy."""
    return ComparisonTable(comparison)


def run_table(run: RunResult) -> Table:
    """Tabulate one run by tier and in all, then placements by rung, refusals by reason and the rest."""
    table = new_table(
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


def _widest_fitting(tables: Iterable[Table], console: Console, options: ConsoleOptions) -> Table:
    """Return the first table that fits; else the last."""
    unbounded = options.update(width=10_000)
    table = Table()
    for table in tables:
        if console.measure(table, options=unbounded).maximum <= options.max_width:
            break
    return table


def _spaced(rates: Sequence[float], count: int) -> list[float]:
    """Choose `count` rates evenly, the highest among them."""
    return [rates[len(rates) - 1 - round(i * len(rates) / count)] for i in reversed(range(count))]


def _goodput_table(comparison: Comparison, omitted: Sequence[str]) -> Table:
    table = new_table()
    table.add_column("")
    columns: list[list[Text]] = []
    for target in targets_of(comparison):
        found = [goodput_of(comparison, policy, target) for policy in comparison.policies]
        scores = [None if g is None else g.rate_rps for g in found]
        texts = [goodput_text(g) for g in found]
        parts = [("rate", f"at {target:.2f}", list(_cells(texts, best_indices(scores, texts))))]
        if num_seeds(comparison) > 1:
            parts.append(("interval", "±95%", [Text(_spread(g), QUIET_STYLE) for g in found]))
        leads = [Text(lead_text(comparison, policy, target)) for policy in comparison.policies]
        parts.append(("lead", "vs best\nother", leads))
        if optimum := optimum_of(comparison):
            shares = [MISSING if score is None else percent_cell_text(score / optimum) for score in scores]
            parts.append(("optimum", "of\noptimum", [Text(share, QUIET_STYLE) for share in shares]))
        for name, title, cells in parts:
            if name not in omitted:
                table.add_column(title, justify="right", vertical="bottom", no_wrap=True)
                columns.append(cells)
    for i, policy in enumerate(comparison.policies):
        table.add_row(Text(policy, overflow="fold"), *(column[i] for column in columns))
    return table


def _quantity_table(comparison: Comparison, quantity: Quantity, rates: Sequence[float]) -> Table:
    _, value, text, score = quantity
    table = new_table()
    table.add_column("")
    columns = []
    for rate in rates:
        table.add_column(f"{rate_text(rate)} ", justify="right", no_wrap=True)
        points = [point_at(comparison, policy, rate) for policy in comparison.policies]
        texts = [MISSING if p is None else text(value(p)) for p in points]
        columns.append(list(_cells(texts, best_indices([None if p is None else score(p) for p in points], texts))))
    for i, policy in enumerate(comparison.policies):
        table.add_row(Text(policy, overflow="fold"), *(column[i] for column in columns))
    return table


def _legend(comparison: Comparison, num_left_out: int) -> Iterator[str]:
    yield f"* best of its column, for cost among those that attain {USABLE_SHARE:.2f} or more"
    if any(goodput.is_lower_bound for goodput in comparison.goodputs):
        yield "≥ still attained at the highest rate that was run"
    if any(point_at(comparison, p, rate) is None for p in comparison.policies for rate in comparison.rates_rps):
        yield f"{MISSING} not run, or nothing attained"
    if num_seeds(comparison) == 1:
        yield "one seed, hence no confidence interval"
    if num_left_out:
        yield f"up to {num_left_out} rates left out for want of width"


def _spread(goodput: GoodputResult | None) -> str:
    return MISSING if goodput is None else f"±{amount_text((goodput.high_rps - goodput.low_rps) / 2)}"


def new_table(title: str | None = None) -> Table:
    """Return an empty table as all of polyslo's are drawn in a terminal: one rule, nothing around."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
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
        ("- served late", lambda t: t.num_served_late),
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
