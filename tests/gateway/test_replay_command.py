"""`polyslo replay`: what it prints, writes and exits with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from journaled_fleet import JournaledFleet, workload

from polyslo.cli.main import cli
from polyslo.gateway import decider


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a journal's file."""
    path = tmp_path_factory.mktemp("journal") / "journal"
    JournaledFleet(path, workload(100.0, 3.0), cancelled_share=0.1, failures=((1.0, 0),), shadow="lmetric").run()
    return path


def polyslo(*arguments: object) -> Result:
    """Call the command line."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="polyslo")


def test_a_good_journal_is_tabulated(journal: Path) -> None:
    """Exit code 0: the requests by tier, what was decided, and that all of it came out the same."""
    result = polyslo("replay", journal)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    for text in ("attainment", "TTFT p99", "cancelled", "own", "promoted", "dispatch", "shadow lmetric", "agreement"):
        assert text in result.stdout
    assert "led to the same" in result.stdout


def test_a_different_decision_is_told_and_exits_with_1(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the code that decides is another one: it closes instances instead of opening them."""
    close = decider.live_close
    monkeypatch.setattr(
        decider, "live_close", lambda policy, streams, i, reason, now_s: close(policy, streams, i, 6, now_s)
    )
    result = polyslo("replay", journal)
    assert result.exit_code == 1, result.output
    assert "DIFFERENT: input " in result.stdout
    assert "; now nothing" in result.stdout


def test_a_cut_off_journal_is_fine_with_a_notice(journal: Path, tmp_path: Path) -> None:
    """Exit code 0: whoever wrote it was killed."""
    (tmp_path / "cut").write_bytes(journal.read_bytes()[:-5])
    result = polyslo("replay", tmp_path / "cut")
    assert result.exit_code == 0, result.output
    assert "cut off at byte" in result.stderr
    assert "led to the same" in result.stdout


def test_a_damaged_journal_exits_with_2(journal: Path, tmp_path: Path) -> None:
    """What stands before the damage is replayed, and the damage is an error."""
    content = bytearray(journal.read_bytes())
    content[-50] ^= 4
    (tmp_path / "damaged").write_bytes(content)
    result = polyslo("replay", tmp_path / "damaged")
    assert result.exit_code == 2
    assert "damaged in the block at byte" in result.stderr
    assert "led to the same" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: can't be read, No such file"),
        (["FILE", "--policy", "lmetrik"], "did you mean 'lmetric'?"),
        (["FILE", "--json", "x.json"], "name a --policy"),
        ([], "Missing argument"),
    ],
)
def test_bad_input_exits_with_2(journal: Path, arguments: list[str], message: str) -> None:
    """In one line that says what to do."""
    result = polyslo("replay", *(str(journal) if argument == "FILE" else argument for argument in arguments))
    assert result.exit_code == 2
    assert message in result.stderr


def test_other_policies_are_compared_as_compare_does(journal: Path, tmp_path: Path) -> None:
    """The same tables, JSON and page, with the measured run beside the simulated ones."""
    files = tmp_path / "x.json", tmp_path / "x.html"
    arguments = ("--policy", "lmetric,minimal:chunk=512", "--json", files[0], "--html", files[1])
    result = polyslo("replay", journal, *arguments)
    assert result.exit_code == 0, result.output
    assert "polyserve (live)" in result.stdout
    assert "in the simulation" in result.stdout
    assert "are simulated with the output that had come by then" in result.stderr
    comparison = json.loads(files[0].read_text())
    assert comparison["policies"] == ["polyserve (live)", "polyserve", "lmetric", "minimal:chunk=512"]
    assert "polyserve (live)" in files[1].read_text()
