"""Time Dynamo's offline replay of a trace; started by `beside_simulators.py` with Dynamo's own Python.

    python run_dynamo.py TRACE.jsonl --instances 4 --runs 3

Prints one line of JSON. One call of `run_trace_replay` is timed: it reads the trace, replays it and reports.
Engine and router are as Dynamo ships them: a mocked vLLM with polynomial step times, round robin.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from importlib.metadata import version

from dynamo.replay import run_trace_replay


def main() -> None:
    """Replay once untimed, then `--runs` times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("--instances", type=int, required=True)
    parser.add_argument("--runs", type=int, required=True)
    options = parser.parse_args()
    report, _ = replay(options.trace, options.instances)
    timed = [replay(options.trace, options.instances)[1] for _ in range(options.runs)]
    print(
        json.dumps(
            {
                "version": version("ai-dynamo"),
                "cpu_s": statistics.median(timed),
                "num_finished": report["completed_requests"],
                "num_steps": None,  # not in the report
                "tpot_ms": report["mean_tpot_ms"],
            }
        )
    )


def replay(path: str, instances: int) -> tuple[dict, float]:
    """Return the report and the CPU seconds of one call."""
    began_s = time.process_time()
    report = run_trace_replay([path], num_workers=instances)
    return report, time.process_time() - began_s


if __name__ == "__main__":
    main()
