"""Best-effort work: relegated requests run on idle instances, and give way at once when a tier claims one.

What a request has emitted is kept; its KV is thrown away with the instance and prefilled again on the next one.
An idle instance keeps to the tightest tier's iteration time, so a claim waits no longer than that.
"""

from __future__ import annotations

from polyslo.compiled import compiled
from polyslo.core.belief import enqueue, take_back
from polyslo.core.forecast import has_room
from polyslo.core.ledger import add_resident
from polyslo.core.pending import head, pop, push
from polyslo.core.state import (
    DISPATCH,
    FITS,
    PREFILL_ONLY,
    RELEGATED,
    WITHDRAW,
    Fleet,
    act,
    best_effort_queue,
    idle_group,
)


@compiled
def set_aside(fleet: Fleet, r: int) -> None:
    """Make a request best-effort: it waits for an idle instance, earliest deadline first."""
    fleet.requests[r].stage = RELEGATED
    push(fleet, best_effort_queue(fleet), r)


@compiled
def feed_idle(fleet: Fleet, now_s: float) -> None:
    """Start what was set aside on idle instances, filling one after the other. Cold instances are left alone."""
    queue, pool = best_effort_queue(fleet), idle_group(fleet)
    if fleet.settings[0].cold_start_s > 0.0:
        return
    rank = 0
    while fleet.pending_size[queue] > 0 and rank < fleet.group_size[pool]:
        r, i = head(fleet, queue), fleet.order[pool, rank]
        if fleet.requests[r].stage != RELEGATED:
            pop(fleet, queue)  # its last token was under way when it was taken back
        elif _takes(fleet, i, r):
            pop(fleet, queue)
            fleet.requests[r].decided_s = now_s
            add_resident(fleet, i, r, fleet.instances[i].iteration + 1)
            act(fleet, DISPATCH, r, i)
            enqueue(fleet, r, i, now_s)
        else:
            rank += 1


@compiled
def clear(fleet: Fleet, i: int) -> None:
    """Take all best-effort work back from an idle instance that is about to be claimed."""
    while fleet.instances[i].num_residents > 0:
        r = fleet.resident[i, 0]
        take_back(fleet, i, r)
        act(fleet, WITHDRAW, r, i)
        set_aside(fleet, r)


@compiled
def _takes(fleet: Fleet, i: int, r: int) -> bool:
    """Tell whether an idle instance can work on the request; an empty one always does."""
    instance = fleet.instances[i]
    if instance.role == PREFILL_ONLY:  # it would have to decode, too
        return False
    return (instance.closed == FITS and instance.num_residents == 0) or has_room(fleet, i, r, instance.budget_s)
