"""Two runs for figures of a fleet over time: one whose SLO mix turns round while it lasts, and one at light load."""

from __future__ import annotations

from dataclasses import dataclass, replace

from polyslo.claims.cases import OURS
from polyslo.claims.disturbances import USUAL
from polyslo.sim.fleet import PolicySpec
from polyslo.sim.results import RunResult
from polyslo.sim.setting import Setting

MIX = "drifting"
LOAD = 0.8  # of the smaller optimum of the two mixes that it goes from and to
LIGHT_LOAD = 0.4  # of the optimum: so that instances are packed, and not spread over
DURATION_S = 240.0
LIGHT_DURATION_S = 120.0
NUM_SAMPLES = 240


@dataclass(frozen=True, slots=True)
class ShownRuns:
    """Runs of polyserve with their timelines."""

    moving: RunResult
    light: RunResult


def shown_runs() -> ShownRuns:
    """Simulate them, co-located, on the usual workload; some seconds."""
    moving, light = Setting.of(workload=USUAL, slo=MIX), Setting.of(workload=USUAL)
    later = replace(moving, mix=moving.mix.at_end())
    rate_rps = LOAD * min(moving.optimum_rps(), later.optimum_rps())
    return ShownRuns(
        moving=_run(moving, rate_rps, DURATION_S),
        light=_run(light, LIGHT_LOAD * light.optimum_rps(), LIGHT_DURATION_S),
    )


def _run(setting: Setting, rate_rps: float, duration_s: float) -> RunResult:
    (run,) = setting.run([PolicySpec.parse(OURS)], rate_rps, 0, duration_s, num_samples=NUM_SAMPLES)
    return run
