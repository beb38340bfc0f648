"""`random`: any instance (PolyServe's baseline)."""

from __future__ import annotations

from polyslo.compiled import compiled
from polyslo.core.randomness import next_state, uniform
from polyslo.core.state import FITS, NONE, Fleet
from polyslo.policies.candidates import entry_group


@compiled
def anyone(fleet: Fleet, r: int, now_s: float) -> int:
    """Return an open instance, each with the same chance."""
    group = entry_group(fleet, r)
    size = fleet.group_size[group]
    for _ in range(4 * size):
        fleet.settings[0].random_state = next_state(fleet.settings[0].random_state)
        i = fleet.order[group, int(size * uniform(fleet.settings[0].random_state))]
        if fleet.instances[i].closed == FITS:
            return i
    return NONE
