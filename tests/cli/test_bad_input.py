"""Whatever is wrong with what a person gives: one line that says what, and exit code 2, before the long run."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from click.testing import Result

from polyslo.profiles.library import DEFAULT_PROFILE
from polyslo.sim.compare import run_all

Run = Callable[..., Result]

HEADER = "arrival_s,input_tokens,output_tokens\n"
MOONCAKE = '{"timestamp": 0, "input_length": 5, "output_length": 5}\n'
BENCH = '{"input_lens": [4, 5], "output_lens": [4, 4], "start_times": [1.5, 2.5]}'
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
CHAT = '{"chat_id": %s, "timestamp": 0, "input_length": 5, "output_length": 5}\n'


def complaint(result: Result) -> str:
    """Return the one line on stderr of a call that was refused."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("polyslo: ")
    return line.removeprefix("polyslo: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t: is empty; a trace needs a header and at least one row"),
        (HEADER, "t: no requests; a trace needs at least one row"),
        (HEADER + "0,10,5\n1,ten,5\n", "t, line 3, column input_tokens: must be a number, got 'ten'"),
        (HEADER + "0,10,5\n-1,10,5\n", "t, line 3, column arrival_s: arrival must be >= 0 s and finite, got -1"),
        (HEADER + "0,10,5\nnan,10,5\n", "t, line 3, column arrival_s: arrival must be >= 0 s and finite, got nan"),
        (HEADER + "0,0,5\n", "t, line 2, column input_tokens: input_tokens must be a whole number from 1 to"),
        (
            HEADER + "9,1,1\n\n5,900000,5\n1,1,1\n",
            "t, line 4: a prompt of 900,000 tokens and an output of 5 do not fit, an instance of llama-3.1-8b-h200-tp1 "
            "holds the KV of 822,753; remove the row, or choose a profile with more memory",
        ),
        (
            MOONCAKE + MOONCAKE.replace("5,", "900000,").replace("0,", "1,", 1),
            "t, line 2: a prompt of 900,000 tokens and an output of 5",
        ),
        (HEADER + "0,10\n", "t, line 2: got 2 values, the header has 3"),
        (HEADER + "0,10,5\n0,10,5\n", "all arrive at once; add --arrivals poisson"),
        (HEADER + "0," + "1" * 200_000 + ",5\n", "t: not CSV: field larger than field limit"),
        (
            "arrival_s,input_token,output_tokens\n0,1,1\n",
            "t: missing column 'input_tokens'; did you mean 'input_token'?",
        ),
        (MOONCAKE + '{"timestamp": 1, "inp', "t, line 2, column 18: not JSON: Unterminated string"),
        (MOONCAKE + '{"timestamp": 1, "output_length": 5}', "t, line 2: missing key 'input_length'; needs timestamp"),
        (MOONCAKE + MOONCAKE.replace("0", '"x"'), "t, line 2, column timestamp: must be a number, got 'x'"),
        (MOONCAKE.replace("5}", "1e999}"), "t, line 1, column output_length: output_tokens must be a whole number"),
        (MOONCAKE.replace("5}", "1" * 400 + "}"), "t, line 1, column output_length: must be a number, got 111"),
        ("[" * 100_000, "t: not a trace: its JSON is nested too deep"),
        (
            MOONCAKE.replace("5,", "9" * 5000 + ","),
            "t, line 1: holds a number of more digits than can be read; correct or remove the line",
        ),
        (MOONCAKE + "5", "t, line 2: must be a JSON object, got '5'; correct or remove it"),
        (BENCH.replace("5", "9" * 5000), "t: holds a number of more digits than can be read; correct the file"),
        (BENCH.replace("5", "9" * 400), "t, row 1, column input_lens: must be a number, got 999"),
        (BENCH.replace("2.5", "-2.5"), "t, row 1, column start_times: arrival must be >= 0 s and finite, got -2.5"),
        (BENCH.replace("2.5", "NaN"), "t, row 1, column start_times: arrival must be >= 0 s and finite, got nan"),
        (BENCH[:-4], "t, line 1, column 69: not JSON: Expecting ',' delimiter; correct the file"),
        (
            '[{"conversations": [{"from": "human", "value": null}]}]',
            "t, conversation 0: must be {'conversations': [{'from': TEXT, 'value': TEXT}, ...]}, got \"{'conv",
        ),
        (
            AZURE + "2023-11-16 18:15:46,10,0\n" * 2,
            "t: no requests (2 requests without any output dropped (GeneratedTokens is 0)); a trace needs at least one",
        ),
        (
            CHAT % "1" + CHAT % "NaN",
            "t, line 2, column chat_id: must be a whole number below 2^53, got nan; correct or",
        ),
        ("input_tokens,input_tokens,output_tokens\n1,2,3\n", "t, line 1: has 2 columns 'input_tokens', got the header"),
        ("input_tokens;output_tokens\n1;2\n", "t, line 1: columns must be separated by commas, got 'input_tokens;out"),
        ("what is this?", "t: can't tell its format, it begins with 'what is this?'"),
    ],
)
def test_a_trace_that_is_none(run: Run, folder: Path, text: str, message: str) -> None:
    """The file, the line and the column are named, and what to do."""
    (folder / "t").write_text(text)
    assert message in complaint(run("simulate", "--trace", "t", "--rates", "20"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("comprae", "no such command 'comprae'; did you mean 'compare'?"),
        ("compare --polices x", "No such option '--polices'"),
        ("compare --policies minmal", "policy: unknown 'minmal'; did you mean 'minimal'?"),
        ("compare --policies chunk,", "policy: unknown ''"),
        ("compare --policies chunk:chnk=3", "unknown option 'chnk'; did you mean 'chunk'?"),
        ("compare --policies nowhere:place", "policy 'nowhere:place': can't be loaded, No module named 'nowhere'"),
        ("compare --policies math:pi", "policy 'math:pi': must be a function, got float"),
        ("simulate --policies minmal", "did you mean 'minimal'?"),
        ("simulate --policy minmal", "did you mean 'minimal'?"),
        ("compare --rates -5", "--rates: must be numbers > 0, in requests per second, got '-5'"),
        ("compare --rates 100;200", "got '100;200'; e.g. --rates 100,200"),
        ("compare --rates nan", "got 'nan'"),
        ("compare --rates ,", "got ''"),
        ("compare --rates 1e12", "must be from 1 to 20,000,000 requests; change the rate or the duration"),
        ("compare --rates 0.001", "must give at least 20 requests, got 0.24; raise the rate or --duration"),
        ("compare --rates 100 --scale 1", "--rates and --scale exclude each other"),
        (
            "compare --scale 1 --workload sharegpt",
            "has no arrival times: give rates (--rates), for it has none of its own",
        ),
        ("plan --workload sharegpt", "has no arrival times: give rates (--rates), for it has none of its own"),
        ("simulate --rates 100,200", "simulate runs one rate, got 2"),
        ("simulate --policies polyserve,minimal", "simulate runs one policy, got 2; use `polyslo compare` for several"),
        ("plan --rates 100,200", "plan takes one rate, got 2"),
        (
            "goodput --rates 5",
            "--rates: goodput does not take it, got '5'; it looks for the rate itself: use `polyslo c",
        ),
        (
            "goodput --scale 2",
            "--scale: goodput does not take it, got '2'; it looks for the rate itself: use `polyslo c",
        ),
        (
            "plan --instances 4",
            "--instances: plan does not take it, got '4'; it looks for the number itself: use `poly",
        ),
        ("compare --at 0.9", "--at: compare does not take it, got '0.9'; it reports goodput at 0.99 and at 0.90: use"),
        ("simulate --at 0.9", "--at: simulate does not take it, got '0.9'; it shows one run as it is: use `polyslo go"),
        ("compare --scale nan", "'--scale': nan is not a finite number"),
        ("compare --duration inf", "'--duration': inf is not a finite number"),
        ("compare --duration 0", "'--duration': 0.0 is not in the range x>=1.0"),
        ("compare --host-ms nan", "'--host-ms': nan is not a finite number"),
        ("compare --host-ms -1", "'--host-ms': -1.0 is not in the range 0<=x<=1000"),
        ("compare --host-ms 30", "tier 'tpot-20' (20 ms): no instance of"),
        ("compare --instances 0", "'--instances': 0 is not in the range 1<=x<=16384"),
        ("compare --instances 1 --mode pd", "mode pd needs num_instances >= 2, got 1; add one or use mode co"),
        ("compare --mode dp", "mode must be co or pd, got 'dp'"),
        ("goodput --at 1.5", "'--at': 1.5 is not in the range 0<x<=1"),
        ("plan --at nan", "'--at': nan is not a finite number"),
        ("compare --workload shargpt", "unknown workload 'shargpt'; did you mean 'sharegpt'?"),
        ("compare --workload mine.json", "workload model mine.json: can't read it"),
        ("compare --workload sharegpt --trace t", "--workload and --trace exclude each other"),
        ("compare --trace-format azure", "--trace-format: is for a trace"),
        ("compare --trace nowhere.csv", "nowhere.csv: can't read it: No such file or directory; check the path"),
        ("compare --trace .", ".: can't read it: Is a directory"),
        ("compare --slo defualt", "unknown SLO mix 'defualt'; did you mean 'default'?"),
        ("compare --profile llama-3.1-8b-h20-tp1", "did you mean 'llama-3.1-8b-h200-tp1'?"),
        ("compare --arrivals gamma:-1", "the CV of gaps must be a number from 0.01 to 100, got 'gamma:-1'"),
        ("workload fit nowhere.csv", "nowhere.csv: can't read it"),
    ],
)
def test_an_option_that_can_not_be_used(run: Run, arguments: str, message: str) -> None:
    """What was given and what is allowed are both in the line; names suggest the nearest."""
    assert message in complaint(run(*arguments.split()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            HEADER.encode() + b"0,1,1\n" * 9_999 + b"0,1,\xe9\n",
            "t, line 10001: not text in UTF-8, got byte 0xe9; save it",
        ),
        (gzip.compress(HEADER.encode(), mtime=0), "t: not text in UTF-8; if it is compressed, unpack it"),
    ],
)
def test_bytes_that_are_no_text(run: Run, folder: Path, content: bytes, message: str) -> None:
    """The line is the file's, also behind what readers take in at once; compressed files are told as such."""
    (folder / "t").write_bytes(content)
    assert message in complaint(run("compare", "--trace", "t"))


@pytest.mark.parametrize("command", ["compare", "simulate", "goodput", "plan"])
@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("nowhere/x.json", "there is no folder 'nowhere'"),
        (".", "it is a folder"),
        (os.devnull, "it is not a regular file"),
    ],
)
def test_a_file_that_can_not_be_written(run: Run, command: str, file: str, reason: str) -> None:
    """It is refused before the run, not after it."""
    for option in ("--json", "--html"):
        assert complaint(run(command, option, file)) == f"{file!r}: can't be written, {reason}; name another file"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[fleet]\nnoise_ration = 0.1", "f.toml: [fleet]: unknown key 'noise_ration'; did you mean 'noise_ratio'?"),
        ("[fleet]\nnoise_ratio = nan", "fleet: noise_ratio must be from 0 to 10, got nan"),
        ("[fleet]\nslowness = 0", "fleet: slowness must be from 0.01 to 1000, got 0"),
        ("[fleet]\nkv_capacity_tokens = 'many'", "fleet.kv_capacity_tokens must be a whole number, got 'many'"),
        ("[fleet]\nrelegate = 1", "fleet.relegate must be true or false, got 1"),
        ("[fleet]\nkv_capacity_tokens = 5000", "an instance of llama-3.1-8b-h200-tp1 holds the KV of 5,000"),
        ("[fleet]\nnum_stragglers = 30", "num_stragglers must be at most num_instances, 20, got 30"),
        ("[fleet]\nmode = 'pd'\nprefill_instances = 20", "must leave one of 20 to decode, got 20"),
        ("fleet = 3", "must have a table [fleet], got 3"),
        ("[fleet", "f.toml: not TOML"),
        ("noise_ratio = 1", "f.toml: unknown key 'noise_ratio'"),
    ],
)
def test_a_fleet_file_with_a_mistake(run: Run, folder: Path, text: str, message: str) -> None:
    """Keys and values are checked by name, type and range."""
    (folder / "f.toml").write_text(text)
    assert message in complaint(run("compare", "--fleet", "f.toml"))


def test_a_tier_that_no_instance_can_serve(run: Run, folder: Path) -> None:
    """The tier is named, with the fastest TPOT that can be had."""
    (folder / "s.toml").write_text("ttft_ms = [300]\n[tiers.fast]\ntpot_ms = 1\nshare = 1.0\n")
    line = complaint(run("plan", "--slo", "s.toml"))
    assert "tier 'fast' (1 ms): no instance of llama-3.1-8b-h200-tp1 can serve it even alone" in line
    assert "the fastest TPOT it can reach is 4." in line


def test_a_tier_that_is_too_tight_for_the_margin(run: Run, folder: Path) -> None:
    """The fastest TPOT that is told is one that would be taken."""
    (folder / "f.toml").write_text("[fleet]\nmargin_ratio = 0.5\n")
    (folder / "s.toml").write_text("ttft_ms = [300]\n[tiers.fast]\ntpot_ms = 9\nshare = 1.0\n")
    line = complaint(run("plan", "--slo", "s.toml", "--fleet", "f.toml"))
    assert "tier 'fast' (9 ms): no instance" in line
    assert "the fastest TPOT it can reach, with its margin of 50%, is 9.59 ms" in line


def _hole(profile: dict[str, Any]) -> None:
    profile["decode"][3]["ms"] = None


def _falling(profile: dict[str, Any]) -> None:
    profile["decode"][-1]["ms"] = 0.01


def _no_list(profile: dict[str, Any]) -> None:
    profile["decode"] = 5


def _no_row(profile: dict[str, Any]) -> None:
    profile["decode"][0] = 5


def _no_batch(profile: dict[str, Any]) -> None:
    profile["decode"] = [row for row in profile["decode"] if row["decodes"] != 64]


def _no_memory(profile: dict[str, Any]) -> None:
    profile["kv_capacity_tokens"] = float("inf")


@pytest.mark.parametrize("option", ["--trace", "--slo", "--fleet", "--profile", "--workload"])
def test_a_file_that_is_no_text(run: Run, folder: Path, option: str) -> None:
    """Bytes that are not UTF-8 name the file."""
    file = "x.json" if option in ("--profile", "--workload") else "x.toml"
    (folder / file).write_bytes(b"arrival_s,input_tokens,output_tokens\n\xff\xfe,1,1\n")
    assert file in complaint(run("compare", option, file))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_hole, "p.json: decode[3].ms must be a finite number > 0, got None"),
        (_no_batch, "p.json: 'decode' has no point of decodes=64, grid.decodes has; a profile with holes can't be"),
        (_no_list, "p.json: 'decode' must be a list of points, each with decodes, context, ms"),
        (_no_row, "p.json: 'decode' must be a list of points"),
        (_no_memory, "p.json: kv_capacity_tokens must be a number from 1 to 10^9, got inf; state it in the file"),
        (_falling, "p.json: times fall as decodes grows to 1024 at context=2048"),
    ],
)
def test_a_profile_that_can_not_be_trusted(
    run: Run, folder: Path, spoil: Callable[[dict[str, Any]], None], message: str
) -> None:
    """Holes and times that fall are named by their place."""
    import polyslo.profiles

    shipped = Path(polyslo.profiles.__file__).parent / "data" / f"{DEFAULT_PROFILE}.json"
    profile = json.loads(shipped.read_text())
    spoil(profile)
    (folder / "p.json").write_text(json.dumps(profile))
    assert message in complaint(run("compare", "--profile", "p.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "p.json: no profile, its JSON is nested too deep; correct the file"),
        ("9" * 5000, "p.json: holds a number of more digits than can be read; correct the file"),
    ],
)
def test_a_profile_that_can_not_be_parsed(run: Run, folder: Path, text: str, message: str) -> None:
    """What Python's own parser gives up on is one line too."""
    (folder / "p.json").write_text(text)
    assert message in complaint(run("compare", "--profile", "p.json"))


def test_a_failing_task_drops_the_rest() -> None:
    """The error comes through without waiting for what runs, and tasks that have not begun never do."""
    begun: list[int] = []
    over = Event()

    def task(number: int) -> int:
        begun.append(number)
        if number == 0:
            raise KeyboardInterrupt
        over.wait()
        return number

    num_tasks = 10 * (os.cpu_count() or 1)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_all([lambda n=number: task(n) for number in range(num_tasks)])
        assert len(begun) < num_tasks
    finally:
        over.set()


def test_a_group_without_a_command_shows_its_help(run: Run) -> None:
    """`polyslo` alone is no error: it lists the commands."""
    assert "compare" in run().output
