"""`static-tiers`: each tier has its own fixed instances, with dynamic chunks; least loaded within the tier."""

from __future__ import annotations

from polyslo.compiled import compiled
from polyslo.core.gradient import least_loaded_open
from polyslo.core.state import NONE, TRANSFERRING, Fleet, prefill_group


@compiled
def least_loaded_of_tier(fleet: Fleet, r: int, now_s: float) -> int:
    """Return the least loaded open instance of the request's tier, else of the nearest tighter, else looser one."""
    if fleet.settings[0].disaggregated == 1 and fleet.requests[r].stage != TRANSFERRING:
        return least_loaded_open(fleet, prefill_group(fleet))
    tier = fleet.requests[r].tier
    for group in range(tier, -1, -1):
        i = least_loaded_open(fleet, group)
        if i != NONE:
            return i
    for group in range(tier + 1, prefill_group(fleet)):
        i = least_loaded_open(fleet, group)
        if i != NONE:
            return i
    return NONE
