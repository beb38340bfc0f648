"""The baselines' parameters, all of which are tried on each workload: chunk, split of the roles, relegation."""

from __future__ import annotations

from polyslo.claims.cases import with_option
from polyslo.sim.fleet import whole_shares
from polyslo.sim.setting import Setting

CHUNKS = (256, 512, 1024, 2048, 4096)
QUICK_CHUNKS = (512, 2048)
CHUNKED = ("chunk", "slo-least-load", "lmetric")  # the baselines whose chunk is tuned at every value
BLIND = ("round-robin", "random")  # and those where a few tell
BLIND_CHUNKS = (512, 1024)
SPLIT = ("static-tiers", "chunk", "slo-least-load", "lmetric")  # disaggregated: whose prefill side is tuned
PREFILL_CHUNKS = (1024, 4096)
UNTUNED = ("static-tiers", "minimal", "round-robin", "random")


def variants(setting: Setting, *, quick: bool = False) -> list[str]:
    """Return every baseline with every value of its parameters; relegation as the fleet says."""
    if setting.config.mode == "co":
        found = [f"{name}:chunk={chunk}" for name in CHUNKED for chunk in (QUICK_CHUNKS if quick else CHUNKS)]
        blind = [] if quick else [f"{name}:chunk={chunk}" for name in BLIND for chunk in BLIND_CHUNKS]
        return [*found, *UNTUNED, *blind]
    found = [*CHUNKED, *UNTUNED]
    if not quick:
        found += [f"{name}:prefill={size}" for name in SPLIT for size in _other_splits(setting)]
        found += [f"{name}:chunk={chunk}" for name in CHUNKED for chunk in PREFILL_CHUNKS]
    return found


def without_relegation(policy: str) -> str:
    """Return the policy with relegation off; the rest as it is."""
    return with_option(policy, "relegate=off")


def _other_splits(setting: Setting) -> list[int]:
    """Return sizes of the prefill side beside the fluid share: one instance less, and one more."""
    fluid = int(whole_shares(setting.need_per_rps(), setting.config.num_instances)[-1])
    return [size for size in (fluid - 1, fluid + 1) if 1 <= size < setting.config.num_instances]
