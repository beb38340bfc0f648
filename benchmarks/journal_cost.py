"""Print what a journal costs: a record of each kind, the state of a new file, and bytes on the disk.

    python benchmarks/journal_cost.py [--instances 8] [--load 0.8]

The first table is of recording alone, on the gateway's thread. The second is a decider before emulated engines in
virtual time, with and without a journal; what is written is counted as it would be on the disk.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from polyslo.gateway.journal.blocks import RECORDS, encode_block
from polyslo.gateway.journal.journal import Journal
from polyslo.gateway.journal.shadow import Shadow
from polyslo.gateway.journal.state import capture, encode_state
from polyslo.gateway.requests.request import Request
from polyslo.gateway.warmup import warm_up
from polyslo.sim.setting import Setting

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from gateway.virtual_fleet import VirtualFleet

SPAN_S = 10.0
REPEATS, CALLS = 15, 2000
REQUEST = Request(1.0, 0.5, 0.05, 1, 1000, 500, True)


def main() -> None:
    """Time records, then a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", type=float, default=0.8, help="of the fluid optimum")
    parser.add_argument("--instances", type=int, default=8)
    options = parser.parse_args()
    warm_up()
    print("| record | us |\n|---|---|")
    _time_records()
    _run(options.instances, options.load)


def _time_records() -> None:
    journal, nobody = Journal(), np.zeros((0, 2), dtype=np.int64)
    journal.is_open = True
    kinds: dict[str, Callable[[], None]] = {
        "arrival with its dispatch": lambda: journal.arrived(7, REQUEST, 1.5, [[0, 7, 3]]),
        "loss": lambda: journal.lost(7, 1.5, []),
        "tick": lambda: journal.ticked(1.5, []),
    }
    for count in (1, 10, 100):
        news = np.ones((count, 2), dtype=np.int64)
        kinds[f"digest of {count} tokens"] = lambda news=news: journal.digested(news, nobody, 1.5, 1.5, [])
    for name, record in kinds.items():
        print(f"| {name} | {_best_us(record, journal):.2f} |")


def _best_us(call: Callable[[], None], journal: Journal) -> float:
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        for _ in range(CALLS):
            call()
        times.append(time.perf_counter() - begin)
        journal.take()
    return 1e6 * min(times) / CALLS


def _run(num_instances: int, load: float) -> None:
    setting = Setting.of(workload="azure2023-conv", slo="default", mode="co", instances=num_instances)
    workload = setting.workload(load * setting.optimum_rps(), 0, duration_s=SPAN_S)

    def fleet() -> VirtualFleet:
        return VirtualFleet(workload, setting.named.profile, num_instances=num_instances, num_records=16384)

    without, recorded = fleet(), fleet()
    journal = recorded.decider.recorder = Journal()
    journal.is_open = True
    shadow = Shadow("lmetric", recorded.decider)
    choose_us = _best_us(lambda: shadow.choose(0, REQUEST, 0.0), journal)
    begin = time.process_time()
    without.run()
    middle = time.process_time()
    recorded.run()
    end = time.process_time()
    begun = time.perf_counter()
    state = capture(recorded.decider)
    copied_s = time.perf_counter() - begun
    raw, num_records = journal.take()
    stored, num_tokens = encode_block(RECORDS, raw), int(workload.output_tokens.sum())
    print(
        f"\n{num_instances} instances, {len(workload)} requests, {num_tokens} tokens: {num_records} records, ", end=""
    )
    print(f"{len(raw) / num_tokens:.1f} bytes a token held, {len(stored) / num_tokens:.2f} on the disk")
    print(f"CPU of the whole run: {middle - begin:.2f} s without a journal, {end - middle:.2f} s with one")
    print(f"a new file: {1e3 * copied_s:.2f} ms to copy the state, {len(encode_state(state)):,} bytes before deflating")
    print(f"a shadow's choice: {choose_us:.1f} us")


if __name__ == "__main__":
    main()
