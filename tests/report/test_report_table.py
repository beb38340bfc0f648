from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from plausible import plausible_comparison, with_goodput
from rich.console import Console, RenderableType

from polyslo.report.table import best_indices, comparison_table, run_table
from polyslo.report.timeline import timeline_text
from polyslo.sim.results import Comparison, RunResult


def printed(table: RenderableType, width: int = 80) -> list[str]:
    """Print as into a pipe: no colour, no terminal."""
    console = Console(width=width, no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def row_of(lines: list[str], start: str) -> list[str]:
    """Find the first line that starts so, as words."""
    return next(line.split() for line in lines if line.strip().startswith(start))


def section_of(lines: list[str], title: str) -> list[str]:
    """Cut out the lines under a title, up to the next empty line."""
    first = next(i for i, line in enumerate(lines) if line.startswith(title)) + 1
    return list(itertools.takewhile(str.strip, lines[first:]))


def test_a_policy_is_a_row(comparison: Comparison) -> None:
    """Goodput with its interval and its ratio to the best other; then attainment and cost by rate."""
    lines = printed(comparison_table(comparison))
    goodputs = section_of(lines, "goodput")
    assert row_of(goodputs, "polyserve ") == ["polyserve", "402*", "±10.0", "1.08x", "442*", "±10.0", "1.08x"]
    assert row_of(goodputs, "chunk") == ["chunk", "352", "±10.0", "0.88x", "387", "±10.0", "0.88x"]
    assert row_of(section_of(lines, "attainment"), "150") == ["150", "225", "300", "350", "400", "450"]
    assert len(section_of(lines, "instance-seconds")) == 2 + len(comparison.policies)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("long_name", ["random", "slo-least-load:chunk=1024,relegate=off"])
def test_numbers_are_never_folded(comparison: Comparison, width: int, long_name: str) -> None:
    """What does not fit is left out by whole columns; a policy stays on one line where its name can."""
    names = (*comparison.policies[:-1], long_name)
    renamed = plausible_comparison(dict.fromkeys(names, 300.0), with_timeline=False)
    lines = printed(comparison_table(renamed), width)
    assert max(map(len, lines)) <= width
    for title in ("goodput", "attainment", "instance-seconds"):
        section = section_of(lines, title)
        assert row_of(section, long_name[:8])[0].startswith(long_name[:8])
        assert len({len(line.split()) for line in section[-len(names) :]}) == 1


def test_rates_left_out_are_counted(comparison: Comparison) -> None:
    """Where not all rates fit, the highest stays and the legend says how many are missing."""
    lines = printed(comparison_table(comparison), 50)
    assert row_of(section_of(lines, "attainment"), "225")[-1] == "450"
    assert any(line.startswith("up to 2 rates left out") for line in lines)


def test_the_share_of_the_optimum_is_shown_where_there_is_room(comparison: Comparison) -> None:
    """At 120 columns every goodput has its share of the fluid optimum."""
    assert row_of(printed(comparison_table(comparison), 120)[2:], "polyserve ")[4] == "94.1%"


def test_one_seed_has_no_interval(comparison: Comparison) -> None:
    """A spread of one value is not zero, it is unknown: there is none, and the legend says so."""
    alone = replace(comparison, runs=tuple(run for run in comparison.runs if run.seed == 1))
    text = "\n".join(printed(comparison_table(alone)))
    assert "±" not in text
    assert "one seed, hence no confidence interval" in text


def test_the_best_is_seen_without_colour(comparison: Comparison) -> None:
    """A star marks the best of a column; a column that reads the same everywhere has none."""
    attainment = section_of(printed(comparison_table(comparison)), "attainment")
    assert row_of(attainment, "polyserve ")[5].endswith("*")
    assert best_indices([1.0, 1.0], ["0.999", "0.999"]) == set()
    assert best_indices([0.5, 0.9, 0.9], ["0.500", "0.900", "0.900"]) == {1, 2}


def test_a_cheap_failure_is_not_the_best_cost() -> None:
    """The cheapest is chosen among policies that attain 0.90; with none, no cost is starred."""
    lines = printed(comparison_table(plausible_comparison({"polyserve": 90.0, "random": 80.0})))
    assert "*" not in "".join(section_of(lines, "instance-seconds"))


def test_a_target_never_reached_is_a_dash(comparison: Comparison) -> None:
    """A missing goodput is no number and no best."""
    lines = printed(comparison_table(with_goodput(comparison, "chunk", 0.99)))
    assert row_of(section_of(lines, "goodput"), "chunk")[1:4] == ["-", "-", "-"]


def test_a_rate_that_a_policy_was_not_run_at_is_a_dash(comparison: Comparison) -> None:
    """Such a policy has no number there, and the legend says why."""
    runs = tuple(run for run in comparison.runs if run.policy == "polyserve" or run.rate_rps < 450)
    lines = printed(comparison_table(replace(comparison, runs=runs)))
    assert row_of(section_of(lines, "attainment"), "chunk")[-1] == "-"
    assert row_of(section_of(lines, "attainment"), "polyserve ")[-1] != "-"
    assert any("- not run" in line for line in lines)


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
