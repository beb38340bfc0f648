"""PolyServe's placement ladder: own tier, lazy promotion, scale up, pending.

    1. own tier         the most loaded instance that can still meet the SLO
    2. lazy promotion   a tighter tier's instance, the nearest tier first, judged by the host's TPOT
    3. scale up         an instance from the idle pool (or taken from a looser tier, see scaling.py)
    4. pending          by deadline; looked at again whenever an instance could have room

Hopeless requests (their TTFT can't be met even alone on an idle instance) are relegated to best-effort when the
switch is on (ours), and otherwise placed without the test of the first token, so that they are served late.
"""

from __future__ import annotations

import math

from polyslo.compiled import compiled
from polyslo.core.admission import admit_colocated, admit_decode, admit_prefill, alone_s, handover_due_s, pace_s
from polyslo.core.belief import enqueue, reserve
from polyslo.core.best_effort import clear, feed_idle, is_host, set_aside
from polyslo.core.forecast import has_room
from polyslo.core.ledger import add_resident
from polyslo.core.pending import head, num_pending, pop, push
from polyslo.core.scaling import claim, claim_of, is_starting, leave_if_unneeded, release, take_over
from polyslo.core.state import (
    DISPATCH,
    FALLBACK,
    FITS,
    FROM_PENDING,
    GRADIENT,
    LAZINESS,
    NO_RUNG,
    NONE,
    OWN,
    PROMOTED,
    REFUSE,
    REFUSED,
    RELEGATE,
    SCALED_UP,
    SPREADING,
    TAKEN_OVER,
    Fleet,
    act,
    idle_group,
    lacks,
    num_claimable,
    num_idle,
    prefill_group,
)

COLOCATED, PREFILL, DECODE = range(3)  # what an instance is asked to do for a request
MOST_LOADED, LEAST_LOADED, UNQUEUED = range(3)  # which of those that can do it; the last: most loaded without a queue

ASKED = 16  # instances of a group that are asked one by one
POOL_LOW_RATIO = 0.2  # of the fleet: with fewer idle, co-located prompts are spread
SPARE_RATIO = 0.25  # of the KV capacity: an instance that was promised less has little to do
TAIL = 4  # least loaded instances that speak for a larger group


@compiled
def place_or_pend(fleet: Fleet, r: int, now_s: float) -> None:
    """Decide about a new request: dispatch it, or put it into its tier's pending queue."""
    if not place(fleet, r, now_s):
        push(fleet, fleet.requests[r].tier, r)


@compiled
def place(fleet: Fleet, r: int, now_s: float) -> bool:
    """Climb the ladder once; True when the request was dispatched."""
    if fleet.settings[0].disaggregated == 1:
        return _place_disaggregated(fleet, r, NONE, now_s)
    tier = fleet.requests[r].tier
    for step in range(tier + 1 if fleet.settings[0].promote == 1 else 1):
        group = _group_at(fleet, tier, step)
        i, first_s, iteration = most_loaded_that_fits(fleet, COLOCATED, group, r, math.inf, now_s)
        if i != NONE:
            _dispatch(fleet, r, i, now_s, OWN if group == tier else PROMOTED, first_s, iteration)
            return True
    if fleet.settings[0].elastic == 1:
        if num_idle(fleet) > 0:
            i, first_s, iteration = _claim(fleet, COLOCATED, tier, r, math.inf, now_s)
            if i != NONE:
                _dispatch(fleet, r, i, now_s, SCALED_UP, first_s, iteration)
                return True
        else:
            i = take_over(fleet, r, now_s)
            if i != NONE and _try_instance(fleet, i, r, now_s, TAKEN_OVER):
                return True
    return False


@compiled
def _group_at(fleet: Fleet, tier: int, step: int) -> int:
    """Return the tier that the ladder asks at a step: its own, then tighter ones, nearest first.

    Eager promotion asks the own tier last; so does a tier whose only instance is wanted elsewhere.
    """
    if fleet.settings[0].promote == 1 and (lacks(fleet, LAZINESS) or _is_spare(fleet, tier)):
        return tier - 1 - step if step < tier else tier
    return tier - step


@compiled
def _is_spare(fleet: Fleet, tier: int) -> bool:
    """Tell whether a tier's only decode instance has little to do while nothing is idle (PD): it should drain (ours).

    With few instances or tiny outputs tiers would hold on to whole instances that the prefill side lacks.
    """
    if fleet.settings[0].disaggregated == 0 or fleet.group_size[tier] != 1 or num_idle(fleet) > 0:
        return False
    instance = fleet.instances[fleet.order[tier, 0]]
    return instance.committed_tokens <= SPARE_RATIO * instance.kv_capacity_tokens


@compiled
def retry_pending(fleet: Fleet, i: int, now_s: float) -> None:
    """An instance made progress: offer it the pending requests of its tier, then of looser tiers."""
    group = fleet.instances[i].group
    if group == idle_group(fleet) or group == prefill_group(fleet):
        for tier in range(prefill_group(fleet)):
            _drain(fleet, tier, i, now_s)
        return
    for tier in range(group, prefill_group(fleet)):
        if tier > group and fleet.settings[0].promote == 0:
            break
        _drain(fleet, tier, i, now_s)
    for tier in range(group):  # expired heads of tighter tiers must not wait for their own instances
        settle_hopeless(fleet, tier, now_s)


@compiled
def is_hopeless(fleet: Fleet, r: int, now_s: float) -> bool:
    """Tell whether a request would miss its TTFT even on an idle instance of its tier, started now."""
    return now_s + alone_s(fleet, r) > fleet.requests[r].prefill_due_s


@compiled
def _drain(fleet: Fleet, tier: int, i: int, now_s: float) -> None:
    """Place a tier's pending requests with instance `i`, earliest deadline first, until one does not fit."""
    settle_hopeless(fleet, tier, now_s)
    r = head(fleet, tier)
    while r != NONE:
        if fleet.instances[i].group == idle_group(fleet):
            placed = place(fleet, r, now_s)
        elif fleet.settings[0].disaggregated == 1:
            placed = _place_disaggregated(fleet, r, i, now_s)
        else:
            placed = _try_instance(fleet, i, r, now_s, FROM_PENDING)
        if not placed:
            return
        pop(fleet, tier)
        fleet.counters[0, fleet.requests[r].rung] -= 1
        fleet.counters[0, FROM_PENDING] += 1
        fleet.requests[r].rung = FROM_PENDING
        r = head(fleet, tier)


@compiled
def settle_hopeless(fleet: Fleet, tier: int, now_s: float) -> None:
    """Give up the heads of a pending queue that can't be served in time any more, or serve them late."""
    gives_up = fleet.settings[0].refuse == 1 or fleet.settings[0].relegate == 1
    r = head(fleet, tier)
    while r != NONE and is_hopeless(fleet, r, now_s):
        if gives_up:
            give_up(fleet, r, now_s)
        elif not _serve_late(fleet, r, now_s):
            return
        pop(fleet, tier)
        r = head(fleet, tier)


@compiled
def give_up(fleet: Fleet, r: int, now_s: float) -> None:
    """A request has missed its SLO: refuse it where that is asked for, else serve it where nothing else runs."""
    fleet.requests[r].rung = NO_RUNG
    if fleet.settings[0].refuse == 1:
        fleet.requests[r].stage = REFUSED
        act(fleet, REFUSE, r, NONE)
        return
    act(fleet, RELEGATE, r, NONE)
    set_aside(fleet, r)
    feed_idle(fleet, now_s)


@compiled
def _serve_late(fleet: Fleet, r: int, now_s: float) -> bool:
    """Dispatch a hopeless request without the test of its first token; False where nobody has room."""
    i = _shortest_queue(fleet, r)
    if i == NONE and fleet.settings[0].elastic == 1:
        i = claim(fleet, fleet.requests[r].tier, now_s)
    if i == NONE:
        return False
    _dispatch(fleet, r, i, now_s, FALLBACK, math.inf, fleet.instances[i].iteration + 1)
    return True


@compiled
def most_loaded_that_fits(
    fleet: Fleet, side: int, group: int, r: int, prefilled_s: float, now_s: float
) -> tuple[int, float, int]:
    """Return (the most loaded instance of a group that can take the request or NONE, first token, its iteration).

    While packing prompts serves nobody it is another one, see `_first_asked`.
    Up to `ASKED` instances are asked one by one. In a larger group the least loaded ones are asked first: where
    they refuse, all do; else the boundary between refusing and fitting is bisected, so the cost grows with the
    logarithm of the group's size (what it overlooks, `retry_pending` finds).
    """
    size, wanted = fleet.group_size[group], _first_asked(fleet, side)
    if size <= ASKED:
        if wanted == UNQUEUED:
            i, first_s, iteration = _unqueued_that_fits(fleet, side, group, 0, r, prefilled_s, now_s)
            if i != NONE:
                return i, first_s, iteration
        for k in range(size):
            i = fleet.order[group, k if wanted == MOST_LOADED else size - 1 - k]
            if is_host(fleet, i) or (wanted == UNQUEUED and fleet.instances[i].num_queued == 0):  # asked already
                continue
            fits, first_s, iteration = _judge(fleet, side, i, r, prefilled_s, now_s)
            if fits:
                return i, first_s, iteration
        return _host_that_fits(fleet, side, group, size, r, prefilled_s, now_s)
    least, least_s, least_iteration, low, high = NONE, math.inf, 0, 0, size - 1
    for rank in range(size - 1, size - 1 - TAIL, -1):
        i = fleet.order[group, rank]
        if is_host(fleet, i):
            continue
        fits, first_s, iteration = _judge(fleet, side, i, r, prefilled_s, now_s)
        if fits:
            least, least_s, least_iteration, high = i, first_s, iteration, rank
            break
    if least == NONE:
        return _host_that_fits(fleet, side, group, TAIL, r, prefilled_s, now_s)
    if wanted == LEAST_LOADED:
        return least, least_s, least_iteration
    found, found_s, found_iteration = least, least_s, least_iteration
    while low < high:
        middle = (low + high) // 2
        fits, first_s, iteration = _judge(fleet, side, fleet.order[group, middle], r, prefilled_s, now_s)
        if fits:
            found, found_s, found_iteration, high = fleet.order[group, middle], first_s, iteration, middle
        else:
            low = middle + 1
    if wanted == MOST_LOADED:
        return found, found_s, found_iteration
    i, first_s, iteration = _unqueued_that_fits(fleet, side, group, high, r, prefilled_s, now_s)
    return (i, first_s, iteration) if i != NONE else (least, least_s, least_iteration)


@compiled
def _unqueued_that_fits(
    fleet: Fleet, side: int, group: int, first: int, r: int, prefilled_s: float, now_s: float
) -> tuple[int, float, int]:
    """As `most_loaded_that_fits`, of those from rank `first` on that have no prompt in their queues."""
    for rank in range(first, fleet.group_size[group]):
        i = fleet.order[group, rank]
        if fleet.instances[i].num_queued == 0 and not is_host(fleet, i):
            fits, first_s, iteration = _judge(fleet, side, i, r, prefilled_s, now_s)
            if fits:
                return i, first_s, iteration
    return NONE, math.inf, 0


@compiled
def _host_that_fits(
    fleet: Fleet, side: int, group: int, count: int, r: int, prefilled_s: float, now_s: float
) -> tuple[int, float, int]:
    """As `most_loaded_that_fits`, of those among the `count` least loaded that best-effort work makes way on."""
    size = fleet.group_size[group]
    for rank in range(size - count, size):
        i = fleet.order[group, rank]
        if is_host(fleet, i):
            fits, first_s, iteration = _judge(fleet, side, i, r, prefilled_s, now_s)
            if fits:
                return i, first_s, iteration
    return NONE, math.inf, 0


@compiled
def _judge(fleet: Fleet, side: int, i: int, r: int, prefilled_s: float, now_s: float) -> tuple[bool, float, int]:
    """Ask one instance: (it fits, first token, iteration that brings it or after which the request joins)."""
    instance, request = fleet.instances[i], fleet.requests[r]
    first_s, iteration = prefilled_s, 0
    if is_host(fleet, i):
        clear(fleet, i)
    if side == PREFILL:
        reason, first_s = admit_prefill(fleet, i, r, now_s)
    elif side == DECODE:
        reason, iteration, peak_s = admit_decode(fleet, i, r, prefilled_s, now_s, pace_s(fleet, i))
        request.predicted_tpot_s = peak_s
    else:
        reason, first_s, iteration, peak_s = admit_colocated(fleet, i, r, now_s, instance.budget_s)
        request.predicted_tpot_s = peak_s
    if reason != FITS:
        fleet.counters[1, reason] += 1
        request.reasons |= 1 << reason
    return reason == FITS, first_s, iteration


@compiled
def _try_instance(fleet: Fleet, i: int, r: int, now_s: float, rung: int) -> bool:
    fits, first_s, iteration = _judge(fleet, COLOCATED, i, r, math.inf, now_s)
    if fits:
        _dispatch(fleet, r, i, now_s, rung, first_s, iteration)
    return fits


@compiled
def _dispatch(fleet: Fleet, r: int, i: int, now_s: float, rung: int, first_s: float, iteration: int) -> None:
    request = fleet.requests[r]
    request.rung = rung
    request.predicted_first_s = first_s
    request.decided_s = now_s
    fleet.counters[0, rung] += 1
    add_resident(fleet, i, r, iteration)
    act(fleet, DISPATCH, r, i)
    enqueue(fleet, r, i, now_s)


@compiled
def _shortest_queue(fleet: Fleet, r: int) -> int:
    """Return whose queue is shortest among each group's least loaded instance with room, own and tighter, or NONE."""
    best, least = NONE, 0
    for group in range(fleet.requests[r].tier + 1):
        for rank in range(fleet.group_size[group] - 1, -1, -1):
            i = fleet.order[group, rank]
            queued = fleet.instances[i].queued_tokens
            if (best == NONE or queued < least) and has_room(fleet, i, r, fleet.instances[i].budget_s):
                best, least = i, queued
                break
    return best


@compiled
def _place_disaggregated(fleet: Fleet, r: int, only: int, now_s: float) -> bool:
    """Choose both sides: a prefill instance for the first token, a decode instance for the rest.

    `only` (or NONE) is the one instance of its side that is asked, because the others have refused before.
    """
    prefill, request = prefill_group(fleet), fleet.requests[r]
    side = fleet.instances[only].group if only != NONE else NONE
    p, first_s = only, math.inf
    if side == prefill:
        fits, first_s, _ = _judge(fleet, PREFILL, only, r, math.inf, now_s)
        p = only if fits else NONE
    else:
        p, first_s, _ = most_loaded_that_fits(fleet, PREFILL, prefill, r, math.inf, now_s)
    elastic = fleet.settings[0].elastic == 1
    spare = num_idle(fleet) if elastic else 0
    if p == NONE and (spare == 0 or num_claimable(fleet, prefill) == 0):
        return False
    foreseen_s = first_s if p != NONE else now_s + alone_s(fleet, r)
    d, joins, rung = choose_decode(fleet, r, NONE if side == prefill else only, foreseen_s, now_s)
    if d == NONE and spare >= (2 if p == NONE else 1) and num_claimable(fleet, request.tier) > 0:
        d, _, joins = _claim(fleet, DECODE, request.tier, r, foreseen_s, now_s)
        rung = SCALED_UP
    if d == NONE:
        return False
    queues_long = first_s - now_s > 0.5 * (request.prefill_due_s - now_s)
    if p == NONE or (queues_long and _first_asked(fleet, PREFILL) == LEAST_LOADED):
        claimed, claimed_first_s, _ = _claim(fleet, PREFILL, prefill, r, math.inf, now_s)
        if claimed != NONE and claimed_first_s < first_s:
            p, first_s, rung = claimed, claimed_first_s, SCALED_UP
        elif claimed != NONE:  # its cold start takes longer than the queue
            leave_if_unneeded(fleet, claimed, now_s)
    if p != NONE and first_s > foreseen_s:  # later than the decode side was asked for
        fits, _, joins = _judge(fleet, DECODE, d, r, first_s, now_s)
        if not fits:
            leave_if_unneeded(fleet, p, now_s)
            p = NONE
    if p == NONE:
        leave_if_unneeded(fleet, d, now_s)
        return False
    request.rung = rung
    request.predicted_first_s = first_s
    request.decided_s = now_s
    request.prefill_due_s = min(request.prefill_due_s, max(first_s, handover_due_s(fleet, r, d)))
    fleet.counters[0, rung] += 1
    reserve(fleet, r, d, joins)
    act(fleet, DISPATCH, r, p)
    enqueue(fleet, r, p, now_s)
    return True


@compiled
def _first_asked(fleet: Fleet, side: int) -> int:
    """Tell which of the instances that fit takes a request: decodes are packed; prompts are spread, which is ours.

    Decodes gain from company and stay long, and a long prompt with little time needs an instance with few of them. A
    queue that is packed up to its deadlines has no slack left for the next burst, in which the instances that packing
    frees begin late. So the least loaded is taken on the prefill side; co-located, when the pool is low, the most
    loaded without a queue, and where all have one the least loaded. While some tier has requests pending it can use
    what packing frees.
    """
    if lacks(fleet, GRADIENT):
        return LEAST_LOADED
    if lacks(fleet, SPREADING) or side == DECODE:
        return MOST_LOADED
    if side == PREFILL:
        return LEAST_LOADED
    is_low = num_claimable(fleet, 0) <= POOL_LOW_RATIO * fleet.instances.shape[0]
    return UNQUEUED if is_low and num_pending(fleet) == 0 else MOST_LOADED


@compiled
def _claim(fleet: Fleet, side: int, group: int, r: int, prefilled_s: float, now_s: float) -> tuple[int, float, int]:
    """Claim an instance of the idle pool and ask it, as `most_loaded_that_fits` does; give it back if it refuses.

    One cold start at a time: what is still starting may absorb what pends.
    """
    warm_only = is_starting(fleet, group, now_s)
    for either in (False, True):
        i = claim_of(fleet, group, either, warm_only, now_s)
        if i == NONE:
            continue
        fits, first_s, iteration = _judge(fleet, side, i, r, prefilled_s, now_s)
        if fits:
            return i, first_s, iteration
        if fleet.instances[i].ready_s > now_s:
            break
        release(fleet, i, now_s)  # what an empty instance can't do, no other of its kind can
    return NONE, math.inf, 0


@compiled
def choose_decode(fleet: Fleet, r: int, only: int, prefilled_s: float, now_s: float) -> tuple[int, int, int]:
    """Return (decode instance or NONE, iteration after which it joins, rung): own tier, then the nearest tighter.

    `only` (or NONE) is the one instance that is asked.
    """
    tier = fleet.requests[r].tier
    tightest = 0 if fleet.settings[0].promote == 1 else tier
    if only != NONE:
        group = fleet.instances[only].group
        if not tightest <= group <= tier:
            return NONE, 0, NO_RUNG
        fits, _, joins = _judge(fleet, DECODE, only, r, prefilled_s, now_s)
        return (only if fits else NONE), joins, OWN if group == tier else PROMOTED
    for step in range(tier - tightest + 1):
        group = _group_at(fleet, tier, step)
        i, _, joins = most_loaded_that_fits(fleet, DECODE, group, r, prefilled_s, now_s)
        if i != NONE:
            return i, joins, OWN if group == tier else PROMOTED
    if fleet.settings[0].elastic == 1 and num_claimable(fleet, tier) == 0:
        i = take_over(fleet, r, now_s)
        if i != NONE:
            fits, _, joins = _judge(fleet, DECODE, i, r, prefilled_s, now_s)
            if fits:
                return i, joins, TAKEN_OVER
            leave_if_unneeded(fleet, i, now_s)
    return NONE, 0, NO_RUNG
