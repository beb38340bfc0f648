"""Compile everything once, with a word to the person who waits.

What a policy does when a prefill ends reaches most of the decision core and takes as long to compile as the
rest: a second process does it at the same time, and the disk cache brings the two together.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from numba import typeof, types

from polyslo.warmth import is_warm


def warm_up() -> None:
    """Compile the simulator if this machine has not done so yet: up to a minute, then cached on disk."""
    if is_warm("polyslo.sim.loop"):
        return
    print("polyslo: compiling the simulator for this machine (once, up to a minute) ...", file=sys.stderr)
    from polyslo.sim.fleet import PolicySpec
    from polyslo.sim.run import simulate
    from polyslo.sim.setting import Setting

    # It only saves time: whatever it can't do is compiled here.
    helper = subprocess.Popen([sys.executable, "-m", __name__], stderr=subprocess.DEVNULL)
    setting = Setting.of(instances=2)
    simulate(
        setting.workload(2.0, 0, duration_s=5.0),
        setting.named.profile,
        PolicySpec.parse("minimal"),
        setting.config,
    )
    helper.wait()
    print("polyslo: compiled.", file=sys.stderr)


def _compile_placing() -> None:
    """Compile, without calling it, what happens in the core when a prefill ends."""
    from polyslo.core.state import new_fleet
    from polyslo.policies.decide import on_prefilled
    from polyslo.profiles.library import DEFAULT_PROFILE, load_profile

    fleet = new_fleet(load_profile(DEFAULT_PROFILE).profile, num_instances=1, tpots_s=[0.05], num_requests=1)
    dispatcher: Any = on_prefilled
    dispatcher.compile((types.int64, typeof(fleet.handle), types.int64, types.float64))  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    _compile_placing()
