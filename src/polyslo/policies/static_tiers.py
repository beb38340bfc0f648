"""`static-tiers`: each tier has its own fixed instances, with dynamic chunks; least loaded within the tier."""

from __future__ import annotations

from polyslo.compiled import compiled
from polyslo.core.state import TRANSFERRING, Fleet, prefill_group


@compiled
def least_loaded_of_tier(fleet: Fleet, r: int, now_s: float) -> int:
    """Return the least loaded instance of the request's tier; a tier without any uses the nearest tighter one."""
    if fleet.settings[0].disaggregated == 1 and fleet.requests[r].stage != TRANSFERRING:
        group = prefill_group(fleet)
    else:
        group = fleet.requests[r].tier
        while group > 0 and fleet.group_size[group] == 0:
            group -= 1
        while fleet.group_size[group] == 0:
            group += 1
    return fleet.order[group, fleet.group_size[group] - 1]
