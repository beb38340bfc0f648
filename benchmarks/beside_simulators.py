"""Run other simulators on the same requests as ours and print requests per CPU second. Absent ones are quoted.

    python benchmarks/beside_simulators.py [--dynamo-python PATH] [--blis PATH] [--vidur-python PATH --vidur-data DIR]

One workload is drawn and written in each simulator's own format: lengths of a fitted workload, Poisson arrivals,
no shared prefixes. Each simulator then runs as a process of its own, one after the other, timing models and
settings as it ships them, but for what its row or driver says. What counts is CPU time, of all threads:

- `call`: a driver in `drivers/` times one call inside the simulator's Python, from the trace's file to the
  summary, after one such call that is not counted: importing and compiling are not in it. Of Vidur its event
  loop alone is timed, since reading the trace comes together with fitting its predictor.
- `difference`: a program's CPU time on the whole trace less that on its first tenth, so starting is not counted.

To be found, Dynamo needs a Python with `ai-dynamo` 1.4.2 (1.5.1 and later need AISimulate as well), BLIS its
binary in the folder of its `defaults.yaml` and `model_configs`, Vidur a Python that imports it and the folder of
its `data/profiling`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from polyslo.sim.setting import DEFAULT_WORKLOAD, Setting
from polyslo.workload.workload import Workload

DRIVERS = Path(__file__).parent / "drivers"
SMALL_SHARE = 0.1  # of the trace, for the run that tells what starting costs
LIMIT_S = 3_600.0
SLOW_S = 10.0  # a program that takes longer is run once
EARLIER = "quoted: measured by us on another day, two shared cores"

BLIS_SETUP = ("--model", "meta-llama/llama-3.1-8b-instruct", "--hardware", "H100", "--tp", "1")
BLIS_COLUMNS = (
    "request_id,client_id,tenant_id,slo_class,session_id,round_index,prefix_group,prefix_length,streaming,"
    "input_tokens,output_tokens,text_tokens,image_tokens,audio_tokens,video_tokens,reason_ratio,model,deadline_us,"
    "server_input_tokens,arrival_time_us,send_time_us,first_chunk_time_us,last_chunk_time_us,num_chunks,status,"
    "error_message,finish_reason"
)
MOONCAKE_BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table; numbers as they are printed."""

    simulator: str
    version: str
    requests_per_s: str
    steps_per_s: str = "not told"
    tpot_ms: str = ""
    source: str = EARLIER


# What was measured of those that are not installed: lengths of Azure conversations, 5,000 requests, 4 instances.
DYNAMO = Row("Dynamo replay (Rust, polynomial timing)", "1.4.2", "6,500 to 7,700", "about 100,000")
BLIS = Row("BLIS (Go), cache signals undelayed", "not noted", "1,450 to 2,050", "28,000 to 39,000")
BLIS_DEFAULT = Row("BLIS (Go), as it ships", "not noted", "90", "1,800")
VIDUR = Row("Vidur (Python)", "not noted", "208 to 362", "1,100 to 1,900")
ALWAYS_QUOTED = (
    Row("NVIDIA AISimulate (Rust, measured tables)", "not noted", "1,270 to 1,700", "about 38,000"),
    Row("DistServe's simulator (Python)", "not noted", "about 165", "3,100"),
    Row("splitwise-sim (Python)", "not noted", "17 to 63", "60 to 414"),
    Row("Frontier (Python)", "not noted", "11", "245"),
)


class PeerError(Exception):
    """A simulator did not do what was asked; the message is what it said last."""


def main() -> None:
    """Draw the workload, run whoever is there, print the table as it grows."""
    options = parse_options()
    workload = draw(options)
    print(
        f"{len(workload):,} requests of {options.workload}, Poisson at {options.rate:g} requests/s, "
        f"{options.instances} instances, seed {options.seed}; mean prompt {workload.input_tokens.mean():,.0f} tokens, "
        f"mean output {workload.output_tokens.mean():,.0f}\n"
    )
    print("| simulator | version | requests per CPU s | steps per CPU s | mean TPOT, ms | figure |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(options, workload, Path(folder)):
            print(
                f"| {row.simulator} | {row.version} | {row.requests_per_s} | {row.steps_per_s} | {row.tpot_ms} "
                f"| {row.source} |",
                flush=True,
            )


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default=DEFAULT_WORKLOAD)
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--rate", type=float, default=40.0, help="requests per second, of the whole fleet")
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=5, help="the median is printed")
    parser.add_argument("--policies", default="polyserve,minimal,round-robin", help="of ours")
    parser.add_argument("--dynamo-python", type=found, help="a Python that imports dynamo.replay")
    parser.add_argument("--blis", type=found, help="the binary")
    parser.add_argument("--blis-version", default="not told", help="to print: the binary doesn't know its own")
    parser.add_argument("--vidur-python", type=found, help="a Python that imports vidur")
    parser.add_argument("--vidur-version", default="not told", help="to print, where Vidur is a checkout")
    parser.add_argument("--vidur-data", type=found, help="the folder that holds Vidur's data/profiling")
    options = parser.parse_args()
    if options.vidur_python and not options.vidur_data:
        parser.error("--vidur-python needs --vidur-data, the folder that holds Vidur's data/profiling")
    return options


def found(text: str) -> Path:
    """Return a path that exists; the last name of a virtual environment's Python is a link, and stays one."""
    path = Path(os.path.abspath(text))
    if not path.exists():
        raise argparse.ArgumentTypeError(f"no such file or folder: {text}")
    return path


def draw(options: argparse.Namespace) -> Workload:
    """Draw the requests that everyone gets."""
    setting = Setting.of(workload=options.workload, instances=options.instances, arrivals="poisson")
    return setting.workload(options.rate, options.seed, duration_s=options.requests / options.rate)


def rows(options: argparse.Namespace, workload: Workload, folder: Path) -> Iterator[Row]:
    """Measure who is there, ours first; quote the others."""
    trace = write_native(workload, folder / "native.csv")
    for policy in options.policies.split(","):
        name = f"polyslo, `{policy}` (Python, compiled)"
        yield drive(name, Path(sys.executable), "run_polyslo.py", trace, options, folder, policy)
    yield measured_or_quoted(DYNAMO, options.dynamo_python, measure_dynamo, options, workload, folder)
    for quoted, flags in ((BLIS, ("--cache-signal-delay", "0")), (BLIS_DEFAULT, ())):
        yield measured_or_quoted(quoted, options.blis, measure_blis, options, workload, folder, *flags)
    yield measured_or_quoted(VIDUR, options.vidur_python, measure_vidur, options, workload, folder)
    yield from ALWAYS_QUOTED


def measured_or_quoted(quoted: Row, installed: Path | None, measure: Callable[..., Row], *arguments: object) -> Row:
    """Measure one that was given; quote it when it is not there, or fails (which is told on stderr)."""
    if installed is None:
        return quoted
    try:
        return measure(quoted.simulator, *arguments)
    except (PeerError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        return quoted


def measure_dynamo(name: str, options: argparse.Namespace, workload: Workload, folder: Path) -> Row:
    """Time Dynamo's replay."""
    trace = write_mooncake(workload, folder / "mooncake.jsonl")
    return drive(name, options.dynamo_python, "run_dynamo.py", trace, options, folder)


def measure_vidur(name: str, options: argparse.Namespace, workload: Workload, folder: Path) -> Row:
    """Time Vidur's event loop."""
    trace = write_vidur(workload, folder / "vidur.csv")
    return drive(name, options.vidur_python, "run_vidur.py", trace, options, options.vidur_data)


# Formats ---------------------------------------------------------------------------------------------------------


def requests(workload: Workload, count: int | None = None) -> Iterator[tuple[int, float, int, int]]:
    """Give number, arrival in seconds, prompt and output tokens of each of the first `count` requests."""
    columns = (workload.arrival_s, workload.input_tokens, workload.output_tokens)
    arrivals_s, inputs, outputs = (column[:count].tolist() for column in columns)
    yield from zip(range(len(arrivals_s)), arrivals_s, inputs, outputs, strict=True)


def write_native(workload: Workload, path: Path) -> Path:
    """Write what polyslo reads."""
    lines = (f"{arrival_s!r},{n_in},{n_out}" for _, arrival_s, n_in, n_out in requests(workload))
    return write_lines(path, ["arrival_s,input_tokens,output_tokens", *lines])


def write_mooncake(workload: Workload, path: Path) -> Path:
    """Write Mooncake's format, for Dynamo; every block of every prompt is new."""
    lines, next_block = [], 0
    for _, arrival_s, n_in, n_out in requests(workload):
        blocks = range(next_block, next_block - (-n_in // MOONCAKE_BLOCK_TOKENS))
        next_block = blocks.stop
        record = {"timestamp": 1e3 * arrival_s, "input_length": n_in, "output_length": n_out, "hash_ids": [*blocks]}
        lines.append(json.dumps(record))
    return write_lines(path, lines)


def write_vidur(workload: Workload, path: Path) -> Path:
    """Write what Vidur's `trace_replay` generator reads."""
    lines = (f"{arrival_s!r},{n_in},{n_out}" for _, arrival_s, n_in, n_out in requests(workload))
    return write_lines(path, ["arrived_at,num_prefill_tokens,num_decode_tokens", *lines])


def write_blis(workload: Workload, path: Path, count: int) -> Path:
    """Write the table of BLIS's trace format of the first `count` requests, and its header beside it."""
    lines = [BLIS_COLUMNS]
    for number, arrival_s, n_in, n_out in requests(workload, count):
        arrival_us = round(1e6 * arrival_s)
        lines.append(
            f"{number},,,standard,,0,,0,false,{n_in},{n_out},0,0,0,0,0,,0,0,{arrival_us},{arrival_us},0,0,0,ok,,"
        )
    header = ["trace_version: 3", "time_unit: microseconds", "mode: generated", "warm_up_requests: 0"]
    write_lines(path.with_suffix(".yaml"), header)
    return write_lines(path, lines)


def write_lines(path: Path, lines: list[str]) -> Path:
    """Write lines of text and return the path."""
    path.write_text("\n".join(lines) + "\n")
    return path


# Running ---------------------------------------------------------------------------------------------------------


def drive(
    name: str, python: Path, driver: str, trace: Path, options: argparse.Namespace, cwd: Path, option: str = ""
) -> Row:
    """Run a driver under a Python; the last line of JSON is what it measured."""
    command = [str(python), str(DRIVERS / driver), str(trace)]
    command += ["--instances", str(options.instances), "--runs", str(options.runs)]
    output, _ = run_process([*command, "--option", option] if option else command, cwd)
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise PeerError(f"{name}: its driver measured nothing; its output ends with\n{output[-500:]}")
    told = json.loads(lines[-1])
    check_all_finished(name, told["num_finished"], options.requests)
    return Row(
        simulator=name,
        version=told["version"] or options.vidur_version,
        requests_per_s=rounded(options.requests / told["cpu_s"]),
        steps_per_s=rounded(told["num_steps"] / told["cpu_s"]) if told["num_steps"] else "not told",
        tpot_ms=f"{told['tpot_ms']:.1f}",
        source="measured, call",
    )


def measure_blis(name: str, options: argparse.Namespace, workload: Workload, folder: Path, *flags: str) -> Row:
    """Measure BLIS by the difference of a large and a small run."""
    large = len(workload)
    small = max(1, round(SMALL_SHARE * large))

    def run(count: int) -> tuple[str, float]:
        trace = write_blis(workload, folder / "blis.csv", count)
        command = [str(options.blis), "replay", *BLIS_SETUP, "--num-instances", str(options.instances), *flags]
        command += ["--trace-header", str(trace.with_suffix(".yaml")), "--trace-data", str(trace)]
        return run_process(command, options.blis.parent)

    output, cpu_s = difference(run, large, small, options.runs)
    told = blis_metrics(output)
    check_all_finished(name, told["completed_requests"], large)
    return Row(
        simulator=name,
        version=options.blis_version,
        requests_per_s=rounded((large - small) / cpu_s),
        tpot_ms=f"{told['itl_mean_ms']:.1f}",
        source="measured, difference",
    )


def blis_metrics(output: str) -> dict[str, float]:
    """Return the metrics of the whole cluster; each instance's are printed in the same way."""
    for text in output.split("=== Simulation Metrics ===")[1:]:
        metrics, _ = json.JSONDecoder().raw_decode(text.lstrip())
        if metrics["instance_id"] == "cluster":
            return metrics
    raise PeerError(f"BLIS: printed no metrics of the cluster; its output ends with\n{output[-500:]}")


def difference(run: Callable[[int], tuple[str, float]], large: int, small: int, runs: int) -> tuple[str, float]:
    """Return a large run's output, and the median of its CPU seconds less a small run's; slow programs run once."""
    taken_s: list[float] = []
    while len(taken_s) < runs:
        output, large_s = run(large)
        taken_s.append(large_s - run(small)[1])
        if large_s > SLOW_S:
            break
    return output, statistics.median(taken_s)


def run_process(command: list[str], cwd: Path) -> tuple[str, float]:
    """Run a program to its end; return its output and its CPU seconds, of all its threads and children."""
    before_s = children_s()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode != 0:
        raise PeerError(f"{' '.join(command)}: ended with {done.returncode}:\n{(done.stderr or done.stdout)[-2_000:]}")
    return done.stdout, children_s() - before_s


def children_s() -> float:
    """Return the CPU seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def check_all_finished(name: str, finished: int, count: int) -> None:
    """Refuse a figure of a run that left requests out."""
    if finished != count:
        raise PeerError(f"{name}: finished {finished:,} of {count:,} requests; lower --rate")


def rounded(value: float) -> str:
    """Write a number with three digits that count."""
    digits = max(0, len(str(int(value))) - 3)
    return f"{round(value, -digits):,.0f}"


if __name__ == "__main__":
    try:
        main()
    except PeerError as error:
        sys.exit(str(error))
