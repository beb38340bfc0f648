"""Best-effort work: requests without an SLO (any more) run on idle instances, and give way at once to those with one.

What a request has emitted is kept; its KV is thrown away with the instance and prefilled again on the next one.
An idle instance keeps to the tightest tier's iteration time, so a claim waits no longer than that.

While no instance is idle and nobody pends, an instance of a tier with little to do hosts a best-effort request too
(`spare_ratio`; co-located, with prompts by deadline). It counts for nothing in the load gradient, and leaves before a
request with an SLO is tried there, which is when none of the tier's other instances takes that.
"""

from __future__ import annotations

from polyslo.compiled import compiled
from polyslo.core.belief import enqueue, take_back
from polyslo.core.forecast import has_room
from polyslo.core.ledger import add_resident
from polyslo.core.pending import head, num_pending, pop, push
from polyslo.core.state import (
    DISPATCH,
    FITS,
    NO_RUNG,
    NONE,
    PREFILL_ONLY,
    RELEGATED,
    WITHDRAW,
    Fleet,
    act,
    best_effort_queue,
    idle_group,
    num_idle,
    prefill_group,
)


@compiled
def set_aside(fleet: Fleet, r: int) -> None:
    """Make a request best-effort: it waits for an idle instance, earliest deadline first."""
    fleet.requests[r].stage = RELEGATED
    fleet.requests[r].best_effort = 1
    push(fleet, best_effort_queue(fleet), r)


@compiled
def take_in(fleet: Fleet, r: int, now_s: float) -> None:
    """Begin with a request that asks for no SLO, or let it wait."""
    fleet.requests[r].rung = NO_RUNG
    set_aside(fleet, r)
    feed_idle(fleet, now_s)


@compiled
def feed_idle(fleet: Fleet, now_s: float) -> None:
    """Start what was set aside on idle instances, filling one after the other. Cold instances are left alone."""
    pool = idle_group(fleet)
    if fleet.settings[0].cold_start_s > 0.0:
        return
    r, rank = _first_waiting(fleet), 0
    while r != NONE and rank < fleet.group_size[pool]:
        i = fleet.order[pool, rank]
        if _takes(fleet, i, r):
            _start(fleet, r, i, now_s)
            r = _first_waiting(fleet)
        else:
            rank += 1


@compiled
def feed_spare(fleet: Fleet, i: int, now_s: float) -> None:
    """Start the first of what was set aside on an instance of a tier, if it has little to do and none is idle.

    That is: nobody's first token waits, and `spare_ratio` of its KV memory and of its pace are enough for both.
    """
    instance, ratio = fleet.instances[i], fleet.settings[0].spare_ratio
    if ratio == 0.0 or fleet.settings[0].disaggregated == 1 or fleet.settings[0].by_deadline == 0:
        return
    if instance.group >= prefill_group(fleet) or instance.closed != FITS:
        return
    if instance.num_queued > 0 or instance.num_best_effort > 0 or num_idle(fleet) > 0 or num_pending(fleet) > 0:
        return
    r = _first_waiting(fleet)
    if r == NONE:
        return
    promised = instance.committed_tokens + fleet.requests[r].prefill_tokens + fleet.requests[r].expected_tokens
    if promised <= ratio * instance.kv_capacity_tokens and has_room(fleet, i, r, ratio * instance.budget_s):
        _start(fleet, r, i, now_s)


@compiled
def is_host(fleet: Fleet, i: int) -> bool:
    """Tell whether an instance that a tier owns does best-effort work, too."""
    return fleet.instances[i].num_best_effort > 0 and fleet.instances[i].group < prefill_group(fleet)


@compiled
def clear(fleet: Fleet, i: int) -> None:
    """Take all best-effort work back from an instance that is needed."""
    for k in range(fleet.instances[i].num_residents - 1, -1, -1):
        r = fleet.resident[i, k]
        if fleet.requests[r].best_effort == 1:
            take_back(fleet, i, r)
            act(fleet, WITHDRAW, r, i)
            set_aside(fleet, r)


@compiled
def _first_waiting(fleet: Fleet) -> int:
    """Return who was set aside and is due first, or NONE; drop those whose last token came meanwhile."""
    queue = best_effort_queue(fleet)
    r = head(fleet, queue)
    while r != NONE and fleet.requests[r].stage != RELEGATED:
        pop(fleet, queue)
        r = head(fleet, queue)
    return r


@compiled
def _start(fleet: Fleet, r: int, i: int, now_s: float) -> None:
    pop(fleet, best_effort_queue(fleet))
    fleet.requests[r].decided_s = now_s
    add_resident(fleet, i, r, fleet.instances[i].iteration + 1)
    act(fleet, DISPATCH, r, i)
    enqueue(fleet, r, i, now_s)


@compiled
def _takes(fleet: Fleet, i: int, r: int) -> bool:
    """Tell whether an idle instance can work on the request; an empty one always does."""
    instance = fleet.instances[i]
    if instance.role == PREFILL_ONLY:  # it would have to decode, too
        return False
    return (instance.closed == FITS and instance.num_residents == 0) or has_room(fleet, i, r, instance.budget_s)
