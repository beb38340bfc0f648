from __future__ import annotations

from dataclasses import replace

import pytest
from plausible import plausible_comparison, with_goodput
from rich.console import Console
from rich.table import Table

from polyslo.report.table import best_indices, comparison_table, run_table
from polyslo.report.timeline import timeline_text
from polyslo.sim.results import Comparison, RunResult


def printed(table: Table, width: int = 80) -> list[str]:
    """Print as into a pipe: no colour, no terminal."""
    console = Console(width=width, no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def row_of(lines: list[str], start: str) -> list[str]:
    """Find the first line that starts so, as words."""
    return next(line.split() for line in lines if line.strip().startswith(start))


def test_the_comparison_fits_eighty_columns(comparison: Comparison) -> None:
    """Nothing is wrapped or cut at 80 columns: each row is one line, each number is whole."""
    lines = printed(comparison_table(comparison))
    assert max(map(len, lines)) <= 80
    assert row_of(lines, "requests/s") == ["requests/s", "402*", "371", "352", "318", "262"]
    assert row_of(lines, "of fluid 427")[3:] == ["94.1%", "86.8%", "82.4%", "74.4%", "61.3%"]


def test_the_best_is_seen_without_colour(comparison: Comparison) -> None:
    """A star marks the best of a row; a row that reads the same everywhere has none."""
    lines = printed(comparison_table(comparison))
    assert row_of(lines, "at 400/s")[2].endswith("*")
    assert best_indices([1.0, 1.0], ["0.999", "0.999"]) == set()
    assert best_indices([0.5, 0.9, 0.9], ["0.500", "0.900", "0.900"]) == {1, 2}


def test_a_cheap_failure_is_not_the_best_cost() -> None:
    """The cheapest is chosen among policies that attain 0.90; with none, no cost is starred."""
    lines = printed(comparison_table(plausible_comparison({"polyserve": 90.0, "random": 80.0})))
    costs = lines[next(i for i, line in enumerate(lines) if "instance-s per 1k" in line) :]
    assert "*" not in "".join(row_of(costs, "at 400/s"))


def test_a_target_never_reached_is_a_dash(comparison: Comparison) -> None:
    """A missing goodput is no number and no best."""
    lines = printed(comparison_table(with_goodput(comparison, "chunk", 0.99)))
    assert row_of(lines, "requests/s")[3] == "-"


def test_a_run_adds_up(run: RunResult) -> None:
    """The last column counts all tiers; placements and refusals are listed beneath."""
    lines = printed(run_table(run))
    assert max(map(len, lines)) <= 80
    assert row_of(lines, "requests")[-1] == f"{run.num_requests:,}"
    assert row_of(lines, "own tier")[-1] == "9,000"
    assert row_of(lines, "first_token")[-1] == "2,104"


@pytest.mark.parametrize("width", [40, 60, 80, 132])
def test_the_timeline_keeps_to_its_width(run: RunResult, width: int) -> None:
    """No line of the terminal timeline is longer than asked; every tier and the idle pool have one."""
    text = timeline_text(run, width)
    body = [line for line in text.splitlines() if any(block in line for block in "▁▂▃▄▅▆▇█")]
    assert max(map(len, body)) <= width
    assert text.count("20 ms") == 4
    assert "idle" in text


def test_the_timeline_shows_the_gradient_at_the_moment_asked_for(run: RunResult) -> None:
    """The load gradient names its moment, and has one block an instance."""
    assert run.timeline is not None
    text = timeline_text(run, 80, moment_s=60.0)
    assert "load gradient at 60 s" in text
    shown = next(line for line in reversed(text.splitlines()) if "100 ms" in line)
    owned = sum(1 for tier, _ in run.timeline.loads[120] if tier == 3)
    assert len(shown.split()[2]) == owned


def test_a_run_without_a_timeline_says_so(run: RunResult) -> None:
    """Nothing is drawn from nothing."""
    assert "no timeline" in timeline_text(replace(run, timeline=None), 80)
