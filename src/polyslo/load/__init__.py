"""Open-loop load against an OpenAI-compatible endpoint.

    from polyslo.load import LoadPlan, Target, run_load
    from polyslo.sim.setting import Setting

    plan = LoadPlan.of(Setting.of(workload="sharegpt").workload(4.0, seed=0, duration_s=60.0))
    print(run_load(plan, Target(("http://127.0.0.1:30000",))).attainment)
"""

from polyslo.load.plan import LoadPlan
from polyslo.load.replay import Limits
from polyslo.load.result import LoadResult
from polyslo.load.run import load, run_load
from polyslo.load.target import Target

__all__ = ["Limits", "LoadPlan", "LoadResult", "Target", "load", "run_load"]
