"""`polyslo load`: what it refuses, and what it writes for a replay that is made up."""

from __future__ import annotations

import csv
import json

import pytest
from click.testing import CliRunner

from load.fakes import workload
from polyslo.cli.main import cli
from polyslo.load.plan import LoadPlan
from polyslo.load.records import Records, Verdict
from polyslo.load.result import score
from polyslo.load.target import Target
from polyslo.load.watch import GeneratorHealth, Lag

TRACE = "arrival_s,input_tokens,output_tokens\n" + "".join(f"{k},100,5\n" for k in range(40))
EVERY_OPTION = (
    "--trace t.csv --rate 4 --duration 10 --seed 3 --url http://a:1 --url http://b:2 --model m --endpoint chat "
    "--no-slo-headers --header x-a:b --header x-c:d --vocab 99 --output-lengths capped --exact-tokens "
    "--max-in-flight 5 --timeout 7 --warm-up 0 --speed 0.5"
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that calls `polyslo load` in an empty folder with a trace; replaying fails the test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text(TRACE)

    def never(*args, **options):
        pytest.fail("this should have been refused before anything is sent")

    monkeypatch.setattr("polyslo.cli.load.run_load", never)
    return lambda *arguments: CliRunner().invoke(cli, ["load", *arguments], prog_name="polyslo")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--rates 1,2", "load sends at one rate, got 2; run it once for each"),
        ("--rate 0", "--rates: must be numbers > 0"),
        ("--rate 1 --scale 2", "--rates and --scale exclude each other"),
        ("--workload sharegpt", "has no arrival times: give rates"),
        ("--rate 5 --url localhost", "--url: must be http(s)://host:port, got 'localhost'"),
        ("--rate 5 --endpoint chatt", "--endpoint: got 'chatt'; did you mean 'chat'?"),
        ("--rate 5 --endpoint chat --prompt ids", "chat takes text, got --endpoint chat"),
        ("--rate 5 --output-lengths exactly", "did you mean 'exact'?"),
        ("--rate 5 --speed 0", "'--speed': 0.0 is not in the range x>0"),
        ("--rate 5 --warm-up 0.95", "'--warm-up': 0.95 is not in the range 0<=x<=0.8"),
        ("--rate 5 --timeout 0", "'--timeout': 0.0 is not in the range x>0"),
        ("--rate 5 --json nowhere/x", "there is no folder 'nowhere'"),
        ("--rate 5 --slo defualt", "did you mean 'default'?"),
    ],
)
def test_an_option_that_can_not_be_used(run, arguments, message):
    """One line on stderr, exit code 2, nothing on stdout."""
    result = run(*arguments.split())
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("polyslo: ")
    assert message in line


def made_up(plan, target, *, limits, progress, notify, records):
    """Stand for `run_load`: half is refused, and the generator was too slow."""
    records.sent_s[:] = plan.send_s
    for k in range(len(plan)):
        records.close(k, Verdict(2, "http 429", "no room") if k % 2 else Verdict(0))
        records.num_tokens[k] = 0 if k % 2 else 5
        records.first_token_s[k] = records.last_token_s[k] = plan.send_s[k] + 0.1
    health = GeneratorHealth(Lag(0, 0.02, 0.03), Lag(0, 0, 0), 0.002, 0.4, 7, 0, ("requests were sent 20.0 ms late",))
    notify("a sentence")
    return score(plan, target, "tiny", records, health)


def test_results_go_to_stdout_and_warnings_to_stderr(run, tmp_path, monkeypatch):
    """The table has a column a tier; a generator that was the limit is told loudly and in the JSON."""
    monkeypatch.setattr("polyslo.cli.load.run_load", made_up)
    files = ("--json", "r.json", "--requests", "r.csv")
    result = run(*["--trace", "t.csv", "--rate", "4", "--duration", "10", "--speed", "0.5", *files])
    assert result.exit_code == 0, result.output
    assert "tier" in result.stdout
    assert "attainment" in result.stdout
    assert "http 429: no room" in result.stdout
    assert "note: the endpoint runs at 0.5 of the speed" in " ".join(result.stdout.split())
    assert "warning: the load generator is the limit, not (only) the endpoint: requests were sent" in result.stderr
    assert "notice: a sentence" in result.stderr
    written = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    assert written["schema"] == "polyslo.load/1"
    assert written["generator_limited"] is True
    assert written["total"]["errors"] == {"http 429": written["total"]["num_refused"]}
    assert sum(tier["num_requests"] for tier in written["tiers"]) == written["total"]["num_requests"]
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    assert sum(int(row["is_scored"]) for row in rows) == written["total"]["num_requests"]
    assert {row["error"] for row in rows} == {"", "http 429"}


def test_every_option_reaches_the_replay(run, monkeypatch):
    """The plan, the target and the limits are those that were asked for."""
    seen = {}

    def keep(plan, target, *, limits, **others):
        seen.update(plan=plan, target=target, limits=limits)
        return made_up(plan, target, limits=limits, **others)

    monkeypatch.setattr("polyslo.cli.load.run_load", keep)
    monkeypatch.setenv("POLYSLO_API_KEY", "k")
    result = run(*EVERY_OPTION.split())
    assert result.exit_code == 0, result.output
    assert seen["target"] == Target(
        ("http://a:1", "http://b:2"), "m", "chat", "k", False, ("x-a:b", "x-c:d"), None, 99, 3, "capped", True
    )
    assert (seen["limits"].max_in_flight, seen["limits"].timeout_s) == (5, 7.0)
    assert (len(seen["plan"]), seen["plan"].speed, seen["plan"].is_scored[0]) == (40, 0.5, True)


def test_a_plan_of_one_moment_can_be_shown(run, monkeypatch):
    """Rates of nothing are dashes, not mistakes."""
    plan = LoadPlan.of(workload((0.0, 5, 5, 0.3, 0.05), (0.0, 5, 5, 0.3, 0.05)))
    result = made_up(plan, Target(("http://a",)), limits=None, progress=None, notify=print, records=Records(2))
    monkeypatch.setattr("polyslo.cli.load.run_load", lambda *args, **options: result)
    assert run("--rate", "4", "--duration", "10").exit_code == 0
