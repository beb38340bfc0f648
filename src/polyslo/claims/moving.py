"""One run in which the SLO mix turns round while it lasts: what the figures of a fleet over time show."""

from __future__ import annotations

from dataclasses import replace

from polyslo.claims.cases import OURS
from polyslo.claims.disturbances import USUAL
from polyslo.sim.fleet import PolicySpec
from polyslo.sim.results import RunResult
from polyslo.sim.setting import Setting

MIX = "drifting"
LOAD = 0.8  # of the smaller optimum of the two mixes that it goes from and to
DURATION_S = 240.0
NUM_SAMPLES = 240


def moving_run() -> RunResult:
    """Simulate polyserve, co-located, on the usual workload under the mix that drifts; some seconds."""
    setting = Setting.of(workload=USUAL, slo=MIX)
    later = replace(setting, mix=setting.mix.at_end())
    rate_rps = LOAD * min(setting.optimum_rps(), later.optimum_rps())
    (run,) = setting.run([PolicySpec.parse(OURS)], rate_rps, 0, DURATION_S, num_samples=NUM_SAMPLES)
    return run
