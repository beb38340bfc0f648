"""`round-robin`: each instance in turn, as a plain load balancer does."""

from __future__ import annotations

from polyslo.compiled import compiled
from polyslo.core.state import FITS, NONE, Fleet
from polyslo.policies.candidates import entry_group


@compiled
def next_in_turn(fleet: Fleet, r: int, now_s: float) -> int:
    """Return the open instance with the next number after the last one used on this side."""
    group = entry_group(fleet, r)
    last = fleet.turn[group]
    best, first = NONE, NONE
    for rank in range(fleet.group_size[group]):
        i = fleet.order[group, rank]
        if fleet.instances[i].closed != FITS:
            continue
        if first == NONE or i < first:
            first = i
        if i > last and (best == NONE or i < best):
            best = i
    chosen = best if best != NONE else first
    fleet.turn[group] = chosen
    return chosen
