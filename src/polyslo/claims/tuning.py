"""The baselines' parameters, all of which are tried on each workload: chunk, split of the roles, relegation."""

from __future__ import annotations

from collections.abc import Mapping

from polyslo.claims.cases import with_option
from polyslo.sim.fleet import whole_shares
from polyslo.sim.setting import Setting

CHUNKS = (256, 512, 1024, 2048, 4096)
QUICK_CHUNKS = (512, 2048)
CHUNKED = ("chunk", "slo-least-load", "lmetric")  # the baselines whose chunk is tuned at every value
BLIND = ("round-robin", "random")  # and those where a few tell
BLIND_CHUNKS = (512, 1024)
PREFILL_CHUNKS = (1024, 4096)  # disaggregated: of both kinds
OF_ONE_CHUNK = ("static-tiers", "minimal")  # the first sizes chunks itself, `chunk` is the other with another chunk
BASELINES = (*CHUNKED, *OF_ONE_CHUNK, *BLIND)


def variants(setting: Setting, *, quick: bool = False) -> list[str]:
    """Return every baseline with every value of its parameters; relegation as the fleet says."""
    if setting.config.mode == "co":
        found = [f"{name}:chunk={chunk}" for name in CHUNKED for chunk in (QUICK_CHUNKS if quick else CHUNKS)]
        blind = [] if quick else [f"{name}:chunk={chunk}" for name in BLIND for chunk in BLIND_CHUNKS]
        return [*found, *OF_ONE_CHUNK, *BLIND, *blind]
    found = list(BASELINES)
    if not quick:
        found += [f"{name}:prefill={size}" for name in BASELINES for size in _other_splits(setting)]
        found += [f"{name}:chunk={chunk}" for name in (*CHUNKED, *BLIND) for chunk in PREFILL_CHUNKS]
    return found


def refinements(setting: Setting, rates_rps: Mapping[str, float]) -> list[str]:
    """Return what follows from how the variants fared (disaggregated): a split further on, the best chunk with it.

    `rates_rps` is the goodput of each variant that was tried.
    """
    if setting.config.mode == "co":
        return []
    found = []
    splits = _other_splits(setting)
    for name in BASELINES:
        chunk = _best_option(rates_rps, name, "chunk")
        split = _best_option(rates_rps, name, "prefill")
        if chunk and split:
            found.append(f"{name}:{chunk},{split}")
        if split:
            size = int(split.removeprefix("prefill="))
            further = size + (1 if size == max(splits) else -1)
            if 1 <= further < setting.config.num_instances:
                found.append(f"{name}:prefill={further}")
    return found


def _best_option(rates_rps: Mapping[str, float], name: str, option: str) -> str:
    """Return an option with the value that serves most, `chunk=1024`; empty where none serves more than the default."""
    found = [policy for policy in rates_rps if policy.startswith(f"{name}:{option}=")]
    best = max([name, *found], key=lambda policy: rates_rps[policy])
    return best.partition(":")[2]


def without_relegation(policy: str) -> str:
    """Return the policy with relegation off; the rest as it is."""
    return with_option(policy, "relegate=off")


def _other_splits(setting: Setting) -> list[int]:
    """Return sizes of the prefill side beside the fluid share: one instance less, and one more."""
    fluid = int(whole_shares(setting.need_per_rps(), setting.config.num_instances)[-1])
    return [size for size in (fluid - 1, fluid + 1) if 1 <= size < setting.config.num_instances]
