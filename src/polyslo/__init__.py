"""polyslo: multi-SLO serving of large language models, an open implementation of PolyServe (arXiv:2507.17769).

The Python interface mirrors the command line:

    import polyslo

    comparison = polyslo.compare(workload="azure2023-conv", policies=["polyserve", "chunk"], seeds=1)
    print(comparison.to_dataframe())
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyslo.sim.results import Comparison, GoodputResult

__all__ = ["compare", "goodput"]

_RUN_OPTIONS = ("rates_rps", "policies", "seeds", "duration_s", "target", "progress")


def compare(**options: Any) -> Comparison:
    """Compare policies on one workload; see `polyslo.sim.setting.Setting.of` and `polyslo.sim.compare.compare`.

    Options of both: workload or trace, profile, slo, instances, mode, arrivals, fleet, host_s; rates_rps,
    policies, seeds, duration_s, progress.
    """
    from polyslo.sim import compare as module

    run_options, setting = _resolve(options)
    return module.compare(setting, **run_options)


def goodput(**options: Any) -> list[GoodputResult]:
    """Bisect for goodput; options as for `compare`, with `target` instead of `rates_rps`."""
    from polyslo.sim import goodput as module

    run_options, setting = _resolve(options)
    return module.goodput(setting, **run_options)


def _resolve(options: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    from polyslo.sim.setting import Setting

    run_options = {name: options.pop(name) for name in _RUN_OPTIONS if name in options}
    return run_options, Setting.of(**options)
