"""A replayed journal as a terminal table: how its requests fared, a column a tier, and what was decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from polyslo.gateway.journal.head import JournalHead
from polyslo.gateway.journal.replay import Replayed
from polyslo.gateway.journal.requests import LiveScore, RequestsSeen, SeenRequest, live_scores
from polyslo.report.notation import MISSING, ms_text, percent_text, share_text, tier_name
from polyslo.report.table import new_table

_ROWS: tuple[tuple[str, Callable[[LiveScore], str]], ...] = (
    ("requests", lambda s: f"{s.num_requests:,}"),
    ("attained", lambda s: f"{s.counts['attained']:,}"),
    ("missed", lambda s: f"{s.counts['missed']:,}"),
    ("- relegated", lambda s: f"{s.num_relegated:,}"),
    ("refused", lambda s: f"{s.counts['refused']:,}"),
    ("failed", lambda s: f"{s.counts['failed']:,}"),
    ("attainment", lambda s: share_text(s.attainment) if s.num_requests else MISSING),
    ("TTFT p50 (ms)", lambda s: ms_text(s.ttft_s(0.5))),
    ("TTFT p99 (ms)", lambda s: ms_text(s.ttft_s(0.99))),
    ("TPOT p50 (ms)", lambda s: ms_text(s.tpot_s(0.5))),
    ("TPOT p99 (ms)", lambda s: ms_text(s.tpot_s(0.99))),
    ("cancelled, not counted", lambda s: f"{s.counts['cancelled']:,}"),
    ("rejected, not counted", lambda s: f"{s.counts['rejected']:,}"),
    ("under way at the end", lambda s: f"{s.num_open:,}"),
)


def replay_table(head: JournalHead, found: Replayed, seen: RequestsSeen, tpots_s: Sequence[float]) -> Table:
    """Tabulate a replay."""
    scores = live_scores(seen.requests, tpots_s)
    began = datetime.fromtimestamp(head.began_unix_s, UTC)
    table = new_table(
        f"{head.policy} served {head.model or 'its model'} on {head.num_instances} instances from "
        f"{began:%Y-%m-%d %H:%M:%S} UTC"
    )
    table.add_column("tier")
    for score in scores:
        name = "all" if score.tpot_ms is None else tier_name(score.tpot_ms)
        table.add_column(name, justify="right", no_wrap=True)
    for label, text in _ROWS:
        table.add_row(label, *(text(score) for score in scores))
    best_effort = Counter(_end(one) for one in seen.requests if one.arrival.is_best_effort)
    _add_counts(table, "best effort, without an SLO", best_effort, len(scores))
    for title, counts in _counts(found):
        _add_counts(table, title, counts, len(scores))
    if head.shadow is not None:
        _add_counts(table, f"shadow {head.shadow}", _agreement(found), len(scores))
    return table


def _end(seen: SeenRequest) -> str:
    return "under way at the end" if seen.outcome is None else seen.outcome.outcome


def _counts(found: Replayed) -> Iterator[tuple[str, Mapping[str, int]]]:
    yield "placements by rung", found.placements_by_rung
    yield "refusals by reason", found.refusals_by_reason
    yield "decisions", {**found.actions, "instances closed": found.num_closings}
    for what, names in (("instances that joined", found.joined), ("instances that left", found.left)):
        yield what, Counter(names)


def _agreement(found: Replayed) -> dict[str, int | str]:
    agreement = found.agreement
    return {
        "same instance": agreement.num_same,
        "another": agreement.num_other,
        "one of the two sent it nowhere": agreement.num_open,
        "agreement": percent_text(agreement.ratio) if agreement.num_same + agreement.num_other else MISSING,
    }


def _add_counts(table: Table, title: str, counts: Mapping[str, int | str], num_columns: int) -> None:
    """Add counts that no tier owns, in the column of all."""
    shown = {name: count for name, count in counts.items() if count}
    if not shown:
        return
    table.add_section()
    table.add_row(Text(title, style="bold"))
    for name, count in shown.items():
        text = f"{count:,}" if isinstance(count, int) else count
        table.add_row(f"  {name}", *("" for _ in range(num_columns - 1)), text)
