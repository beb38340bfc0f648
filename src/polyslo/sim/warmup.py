"""Compile everything once, with a word to the person who waits."""

from __future__ import annotations

import sys

from polyslo.compiled import is_warm


def warm_up() -> None:
    """Compile the simulator if this machine has not done so yet: a minute, then cached on disk."""
    if is_warm():
        return
    print("polyslo: compiling the simulator for this machine (once, about a minute or two) ...", file=sys.stderr)
    from polyslo.sim.fleet import PolicySpec
    from polyslo.sim.run import simulate
    from polyslo.sim.setting import Setting

    setting = Setting.of(instances=2)
    simulate(
        setting.workload(2.0, 0, duration_s=5.0),
        setting.named.profile,
        PolicySpec.parse("minimal"),
        setting.config,
    )
    print("polyslo: compiled.", file=sys.stderr)
