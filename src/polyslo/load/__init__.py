"""Open-loop load against an OpenAI-compatible endpoint.

plan = LoadPlan.of(Setting.of(workload="sharegpt").workload(4.0, seed=0, duration_s=60.0))
result = run_load(plan, Target(("http://127.0.0.1:30000",)))
"""

from polyslo.load.plan import LoadPlan
from polyslo.load.records import Records
from polyslo.load.replay import Limits
from polyslo.load.result import LoadResult
from polyslo.load.run import load, run_load
from polyslo.load.target import Target

__all__ = ["Limits", "LoadPlan", "LoadResult", "Records", "Target", "load", "run_load"]
