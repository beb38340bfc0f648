"""A replay as a terminal table: a column a tier and one for all, then errors, the generator and what to know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from polyslo.load.result import LoadResult, LoadScore
from polyslo.report.notation import MISSING, amount_text, ms_text, percent_text, rate_text, share_text, tier_name
from polyslo.report.table import new_table

_QUIET = "dim"
_ROWS: tuple[tuple[str, Callable[[LoadScore], str]], ...] = (
    ("requests", lambda s: f"{s.num_requests:,}"),
    ("attained", lambda s: f"{s.num_attained:,}"),
    ("missed", lambda s: f"{s.num_missed:,}"),
    ("refused", lambda s: f"{s.num_refused:,}"),
    ("failed", lambda s: f"{s.num_failed:,}"),
    ("unfinished", lambda s: f"{s.num_unfinished:,}"),
    ("attainment", lambda s: share_text(s.attainment) if s.num_requests else MISSING),
    ("goodput (requests/s)", lambda s: amount_text(s.goodput_rps)),
    ("TTFT p50 (ms)", lambda s: ms_text(s.ttft.p50_s)),
    ("TTFT p90 (ms)", lambda s: ms_text(s.ttft.p90_s)),
    ("TTFT p99 (ms)", lambda s: ms_text(s.ttft.p99_s)),
    ("TPOT p50 (ms)", lambda s: ms_text(s.tpot.p50_s)),
    ("TPOT p99 (ms)", lambda s: ms_text(s.tpot.p99_s)),
    ("worst lateness (ms)", lambda s: ms_text(s.lateness_s)),
    ("tokens/s", lambda s: amount_text(s.tokens_per_s)),
)


@dataclass(frozen=True, slots=True)
class LoadTable:
    """A replay for `rich` to print."""

    result: LoadResult

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay out the scores, then the lines under them."""
        result = self.result
        yield Text(
            f"{result.workload} at {rate_text(result.rate_rps)} requests/s against {', '.join(result.urls)} "
            f"({result.model}, {result.endpoint}): {result.num_sent:,} sent, {result.window_s:,.0f} s scored",
            style="bold",
        )
        yield _scores(result)
        for line in _lines(result):
            yield Text(line, style=_QUIET)


def load_table(result: LoadResult) -> LoadTable:
    """Tabulate a replay by tier and in all."""
    return LoadTable(result)


def _scores(result: LoadResult) -> Table:
    table = new_table()
    table.add_column("tier")
    scores = (*result.tiers, result.total)
    for score in scores:
        name = "all" if score.tpot_ms is None else tier_name(score.tpot_ms)
        table.add_column(name, justify="right", no_wrap=True)
    for label, text in _ROWS:
        table.add_row(label, *(text(score) for score in scores))
    for index, kind in enumerate(result.total.errors):
        if index == 0:
            table.add_section()
            table.add_row(Text("errors", style="bold"))
        table.add_row(Text(f"  {kind}"), *(f"{score.errors.get(kind, 0):,}" for score in scores))
    return table


def _lines(result: LoadResult) -> Iterator[str]:
    for kind, example in result.error_examples.items():
        if example and kind in result.total.errors:
            yield f"{kind}: {example}"
    health = result.generator
    yield (
        f"generator: sent p99 {ms_text(health.send_lag.p99_s)} ms late (at most {ms_text(health.send_lag.max_s)}), "
        f"event loop p99 {ms_text(health.loop_lag.p99_s)} ms late, {percent_text(health.cpu_ratio)} of a core, "
        f"{health.most_in_flight:,} in flight at most"
    )
    for notice in result.notices:
        yield f"note: {notice}"
