"""What commands write and where, with runs that are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import polyslo
from polyslo.cli.main import cli
from polyslo.cli.output import write_file
from polyslo.core.extent import Extent
from polyslo.errors import ConfigError, InputError
from polyslo.sim.results import RunResult, TierResult
from polyslo.sim.setting import Setting

TRACE = "arrival_s,input_tokens,output_tokens\n0,4000,500\n9,4000,500\n5,4000,500\n"


def made_up(self: Setting, policies: Any, rate_rps: float, seed: int, duration_s: float, num_samples: int = 0) -> Any:
    """Stand for `Setting.run`: everything is attained."""
    notices = self.notices(rate_rps, duration_s)
    tiers = tuple(TierResult(1e3 * t, 100, 100, 0, 0, 0, 0, 0.1, 0.1, 0.01, 0.01, 10.0) for t in self.mix.tpots_s)
    return [
        RunResult(
            p.name, "co", "none", self.name, rate_rps, seed, 4, 10.0, tiers, 40.0, 1, 0,
            notices=notices, largest=Extent(1000 + 60 * seed, 7, 7, 7),
        )
        for p in policies
    ]  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    ["compare --rates 50,60", "simulate --rates 50", "goodput", "plan --rates 50"],
)
def test_a_command_tells_what_was_done_to_the_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    """Notices go to stderr, each once; results to stdout and the files asked for, pages with the notices.

    Among them how far the largest iterations, of any run, went beyond the profile's points.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Setting, "run", made_up)
    for module in ("sim.compare", "sim.goodput", "sim.plan", "cli.simulate"):
        monkeypatch.setattr(f"polyslo.{module}.warm_up", lambda: None)
    (tmp_path / "t.csv").write_text(TRACE)
    fixed = "--trace t.csv --duration 10 --seeds 2 --json r.json --html page.html"
    result = CliRunner().invoke(cli, [*arguments.split(), *fixed.split()])
    assert result.exit_code == 0, result.output
    assert result.stderr.count("notice: 1 arrivals were out of order: sorted\n") == 1
    beyond = (
        "terations were extrapolated beyond the points of profile llama-3.1-8b-h200-tp1: batches to 1,060 (points to"
    )
    assert result.stderr.count(f"notice: i{beyond}") == 1
    assert "polyserve" in result.stdout
    assert "notice" not in result.stdout
    json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    page = (tmp_path / "page.html").read_text()
    assert "1 arrivals were out of order: sorted." in page
    if not arguments.startswith("simulate"):  # its page has the run's own notices, which this run is without
        assert beyond in page


def test_python_plans_as_the_command_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`polyslo.plan` takes the same options; without a rate it is the trace's own."""
    monkeypatch.setattr(Setting, "run", made_up)
    monkeypatch.setattr("polyslo.sim.plan.warm_up", lambda: None)
    (tmp_path / "t.csv").write_text(TRACE)
    (own,) = polyslo.plan(trace=tmp_path / "t.csv", policies=["chunk"], seeds=3, duration_s=10)
    asked, other = polyslo.plan(trace=tmp_path / "t.csv", rate_rps=50, target=0.9, duration_s=10)
    assert (own.policy, len(own.runs), asked.policy, other.policy) == ("chunk", 3, "polyserve", "chunk")
    assert own.rate_rps == Setting.of(trace=tmp_path / "t.csv").source_rate_rps
    assert (asked.rate_rps, asked.target) == (50, 0.9)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (polyslo.compare, {"polices": ["chunk"]}, "polyslo.compare: unknown key 'polices'; did you mean 'policies'?"),
        (polyslo.goodput, {"seed": 1}, "polyslo.goodput: unknown key 'seed'; did you mean 'seeds'?"),
        (polyslo.goodput, {"rates_rps": [5]}, "polyslo.goodput: unknown key 'rates_rps'"),
        (polyslo.plan, {"instances": 3, "rate_rps": 5}, "polyslo.plan: unknown key 'instances'"),
        (polyslo.plan, {"workload": "sharegpt"}, "has no arrival times"),
        (polyslo.compare, {"policies": "chunk"}, "policies: must be a list of at least one name, got 'chunk'"),
        (polyslo.goodput, {"policies": []}, "policies: must be a list of at least one name, got []"),
        (polyslo.compare, {"seeds": 0}, "seeds: must be a whole number >= 1, got 0"),
        (polyslo.plan, {"rate_rps": 5, "seeds": 1.5}, "seeds: must be a whole number >= 1, got 1.5"),
    ],
)
def test_python_names_what_it_can_not_use(function: Any, options: dict[str, Any], message: str) -> None:
    """Before anything is compiled; nothing is dropped in silence."""
    with pytest.raises(InputError) as caught:
        function(**options)
    assert message in str(caught.value)


def test_a_fitted_workload_of_ones_own_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `workload fit` writes is what `--workload` takes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("input_tokens,output_tokens\n" + "10,5\n20,9\n" * 50)
    result = CliRunner().invoke(cli, ["workload", "fit", "t.csv"])
    assert result.exit_code == 0, result.output
    assert Setting.of(workload="t.model.json").name == "t"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """Nothing is left behind when the content, or the writing of it, fails."""
    file = tmp_path / "x.json"
    file.write_text("old")

    def fails() -> str:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_file(str(file), fails)
    with pytest.raises(ConfigError, match=r"can't be written, .*; name another file"):
        write_file(str(tmp_path / "nowhere" / "x.json"), lambda: "new")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert file.read_text() == "old"
