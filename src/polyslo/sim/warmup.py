"""Compile everything once, with a word to the person who waits.

A second process compiles the decisions while this one compiles the simulated engine; the disk cache brings the two
together. What both need at the same moment both compile, so what they share comes late here.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from numba import types

from polyslo.native import RECORD_TYPE
from polyslo.warmth import is_warm

INDEX, TIME_S, BUNDLE = types.int64, types.float64, RECORD_TYPE


def warm_up() -> None:
    """Compile the simulator if this machine has not done so yet: up to a minute, then cached on disk."""
    if is_warm("polyslo.sim.loop"):
        return
    print("polyslo: compiling the simulator for this machine (once, up to a minute) ...", file=sys.stderr)
    from polyslo.sim.fleet import PolicySpec
    from polyslo.sim.run import simulate
    from polyslo.sim.setting import Setting

    # It only saves time: whatever it can't do is compiled here.
    with subprocess.Popen([sys.executable, "-m", __name__], stderr=subprocess.DEVNULL):
        compile_engine()
        setting = Setting.of(instances=2)
        simulate(
            setting.workload(2.0, 0, duration_s=5.0),
            setting.named.profile,
            PolicySpec.parse("minimal"),
            setting.config,
        )
    print("polyslo: compiled.", file=sys.stderr)


def compile_engine() -> None:
    """Compile the simulated engine, what it does not share with the decisions first."""
    from polyslo.sim.engine import end_iteration, join_batch, start_iteration, submit, take_back
    from polyslo.sim.events import pop_event

    _compile(pop_event, BUNDLE)
    _compile(take_back, BUNDLE, INDEX, INDEX)
    _compile(end_iteration, BUNDLE, INDEX, TIME_S)
    _compile(start_iteration, BUNDLE, INDEX, TIME_S)
    _compile(submit, BUNDLE, INDEX, INDEX, TIME_S)
    _compile(join_batch, BUNDLE, INDEX, INDEX)


def compile_decisions() -> None:
    """Compile what the core does as things happen."""
    from polyslo.policies.decide import on_arrival, on_iteration_settled, on_prefilled

    _compile(on_iteration_settled, INDEX, BUNDLE, INDEX, TIME_S, TIME_S)
    _compile(on_prefilled, INDEX, BUNDLE, INDEX, TIME_S)
    _compile(on_arrival, INDEX, BUNDLE, INDEX, TIME_S)


def _compile(function: Any, *argument_types: Any) -> None:
    """Compile a function for arguments, without calling it."""
    function.compile(argument_types)


if __name__ == "__main__":
    compile_decisions()
