"""Time Vidur's event loop on a trace; started by `beside_simulators.py` with Vidur's own Python.

    python run_vidur.py TRACE.csv --instances 4 --runs 1

It has to run in the folder that holds Vidur's `data/profiling`. Prints one line of JSON. `Simulator.run()` is
timed, once, without writing metrics or plots. Step times are predicted by Vidur's linear regression, which is
fitted faster than its random forest and costs the loop the same: both end as one table that is looked up.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version

from vidur.config import SimulationConfig
from vidur.entities import Batch
from vidur.simulator import Simulator

PREDICTOR = "linear_regression"


def main() -> None:
    """Prepare, run once, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("--instances", type=int, required=True)
    parser.add_argument("--runs", type=int, required=True, help="ignored: one run is long enough")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        simulator = Simulator(configure(options.trace, options.instances, folder))
        requests = [event._request for _, event in simulator._event_queue]
        began_s = time.process_time()
        simulator.run()
        cpu_s = time.process_time() - began_s
    paces_s = [
        (request.completed_at - request.prefill_completed_at) / (request.num_decode_tokens - 1)
        for request in requests
        if request.num_decode_tokens > 1
    ]
    print(
        json.dumps(
            {
                "version": version_if_installed(),
                "cpu_s": cpu_s,
                "num_finished": sum(request.completed for request in requests),
                "num_steps": Batch.generate_id(),  # ids count from 0: the next one is how many there were
                "tpot_ms": 1e3 * sum(paces_s) / len(paces_s),
            }
        )
    )


def configure(trace: str, instances: int, folder: str) -> SimulationConfig:
    """Return the settings, which Vidur reads from the command line only."""
    longest = str(longest_tokens(trace))
    settings = {
        "cluster_config_num_replicas": str(instances),
        "replica_config_model_name": "meta-llama/Meta-Llama-3-8B",
        "replica_config_device": "a100",
        "request_generator_config_type": "trace_replay",
        "trace_request_generator_config_trace_file": trace,
        "trace_request_generator_config_max_tokens": longest,
        "execution_time_predictor_config_type": PREDICTOR,
        f"{PREDICTOR}_execution_time_predictor_config_prediction_max_tokens_per_request": longest,
        "metrics_config_output_dir": f"{folder}/output",
        "metrics_config_cache_dir": f"{folder}/cache",
        "log_level": "warning",
    }
    sys.argv = [sys.argv[0], "--no-metrics_config_write_metrics", "--no-metrics_config_enable_chrome_trace"]
    sys.argv += [text for name, value in settings.items() for text in (f"--{name}", value)]
    return SimulationConfig.create_from_cli_args()


def longest_tokens(trace: str) -> int:
    """Return the longest request, prompt and output, rounded up to whole thousands: Vidur cuts longer ones."""
    with open(trace, newline="") as file:
        longest = max(int(row["num_prefill_tokens"]) + int(row["num_decode_tokens"]) for row in csv.DictReader(file))
    return -(-longest // 1_000) * 1_000


def version_if_installed() -> str | None:
    """Return the installed package's version; a checkout on the path has none."""
    try:
        return version("vidur")
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
