"""polyslo: multi-SLO serving of large language models, an open implementation of PolyServe (arXiv:2507.17769).

The Python interface mirrors the command line:

    import polyslo

    comparison = polyslo.compare(workload="azure2023-conv", policies=["polyserve", "chunk"], seeds=1)
    print(comparison.to_dataframe())
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyslo.sim.plan import PlanResult
    from polyslo.sim.results import Comparison, GoodputResult

__all__ = ["compare", "goodput", "plan"]


def compare(**options: Any) -> Comparison:
    """Compare policies on one workload; see `polyslo.sim.setting.Setting.of` and `polyslo.sim.compare.compare`.

    Options of both: workload or trace, profile, slo, instances, mode, arrivals, fleet, host_s; rates_rps,
    policies, seeds, duration_s, progress.
    """
    from polyslo.sim import compare as module

    run_options, setting = _resolve(module.compare, options)
    return module.compare(setting, **run_options)


def goodput(**options: Any) -> list[GoodputResult]:
    """Bisect for goodput; options as for `compare`, with `target` instead of `rates_rps`.

    `pandas.DataFrame(results)` has a row a policy.
    """
    from polyslo.sim import goodput as module

    run_options, setting = _resolve(module.goodput, options)
    return module.goodput(setting, **run_options)


def plan(**options: Any) -> list[PlanResult]:
    """Find each policy's smallest fleet; options as for `goodput`, with `rate_rps` instead of `instances`.

    Without `rate_rps` it is the workload's own rate. `pandas.DataFrame(results)` has a row a policy.
    """
    from polyslo.sim import plan as module

    run_options, setting = _resolve(module.plan, {"rate_rps": None, **options}, without=("instances",))
    if run_options["rate_rps"] is None:
        run_options["rate_rps"] = setting.source_rate_rps
    return module.plan(setting, **run_options)


def _resolve(
    function: Callable[..., Any], options: dict[str, Any], *, without: tuple[str, ...] = ()
) -> tuple[dict[str, Any], Any]:
    """Part the options of a function of `polyslo.sim` from those of the setting; unknown ones name the nearest."""
    from inspect import signature

    from polyslo.errors import reject_unknown_keys
    from polyslo.sim.setting import Setting

    own = set(signature(function).parameters) - {"setting"}
    allowed = (own | set(signature(Setting.of).parameters)) - set(without)
    reject_unknown_keys(options, allowed, f"polyslo.{function.__name__}")
    setting = Setting.of(**{name: value for name, value in options.items() if name not in own})
    return {name: value for name, value in options.items() if name in own}, setting
