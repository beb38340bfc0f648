"""The load gradient: each group's instances in order of load, most loaded first, kept so by small moves.

Load is `committed_tokens`: prompts and expected outputs of everything promised to the instance. It changes only
when a request comes or goes, so the order costs a few swaps an event and a scan can stop at the first instance
that fits (PolyServe, "most loaded instance that can still meet the SLO").
"""

from __future__ import annotations

from polyslo.compiled import compiled
from polyslo.core.state import FITS, NONE, Fleet


@compiled
def change_load(fleet: Fleet, i: int, tokens: int) -> None:
    """Add `tokens` (may be negative) to an instance's load and restore the order of its group."""
    fleet.instances[i].committed_tokens += tokens
    if tokens > 0:
        _move_up(fleet, i)
    else:
        _move_down(fleet, i)


@compiled
def move_to_group(fleet: Fleet, i: int, group: int) -> None:
    """Take an instance out of its group and put it into another, at the place that its load gives it."""
    old = fleet.instances[i].group
    last = fleet.group_size[old] - 1
    for rank in range(fleet.instances[i].rank, last):
        _put(fleet, old, rank, fleet.order[old, rank + 1])
    fleet.group_size[old] = last
    fleet.instances[i].group = group
    size = fleet.group_size[group]
    fleet.group_size[group] = size + 1
    _put(fleet, group, size, i)
    _move_up(fleet, i)


@compiled
def least_loaded_open(fleet: Fleet, group: int) -> int:
    """Return the least loaded instance of a group that takes requests, or NONE."""
    for rank in range(fleet.group_size[group] - 1, -1, -1):
        i = fleet.order[group, rank]
        if fleet.instances[i].closed == FITS:
            return int(i)
    return NONE


@compiled
def _move_up(fleet: Fleet, i: int) -> None:
    group, load = fleet.instances[i].group, fleet.instances[i].committed_tokens
    rank = fleet.instances[i].rank
    while rank > 0:
        above = fleet.order[group, rank - 1]
        if fleet.instances[above].committed_tokens >= load:
            break
        _put(fleet, group, rank, above)
        rank -= 1
    _put(fleet, group, rank, i)


@compiled
def _move_down(fleet: Fleet, i: int) -> None:
    group, load = fleet.instances[i].group, fleet.instances[i].committed_tokens
    rank, last = fleet.instances[i].rank, fleet.group_size[group] - 1
    while rank < last:
        below = fleet.order[group, rank + 1]
        if fleet.instances[below].committed_tokens <= load:
            break
        _put(fleet, group, rank, below)
        rank += 1
    _put(fleet, group, rank, i)


@compiled
def _put(fleet: Fleet, group: int, rank: int, i: int) -> None:
    fleet.order[group, rank] = i
    fleet.instances[i].rank = rank
