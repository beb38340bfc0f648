"""`minimal` and `chunk`: the least loaded instance (PolyServe's baselines; every router's default)."""

from __future__ import annotations

from polyslo.compiled import compiled
from polyslo.core.state import FITS, NONE, Fleet
from polyslo.policies.candidates import entry_group


@compiled
def least_loaded(fleet: Fleet, r: int, now_s: float) -> int:
    """Return the open instance with the fewest promised tokens."""
    group = entry_group(fleet, r)
    for rank in range(fleet.group_size[group] - 1, -1, -1):
        i = fleet.order[group, rank]
        if fleet.instances[i].closed == FITS:
            return i
    return NONE
