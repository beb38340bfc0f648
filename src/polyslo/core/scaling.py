"""Which tier owns which instance: claim from the idle pool, release to it, hand over, take over.

Tiers grow and shrink one instance at a time (PolyServe). An instance that holds no request of its tier leaves it:
to the idle pool when empty, to its tightest guest's tier when only guests remain. A tier that owns nothing, has a
request to place and finds the pool empty takes an instance of a looser tier whose residents it can keep on time.
"""

from __future__ import annotations

import math

from polyslo.compiled import compiled
from polyslo.core.admission import admit_colocated, iteration_budget_s
from polyslo.core.best_effort import clear
from polyslo.core.forecast import has_room
from polyslo.core.gradient import least_loaded_open, move_to_group
from polyslo.core.state import (
    CHUNKING,
    EITHER,
    FITS,
    NONE,
    RETIER,
    START,
    Fleet,
    act,
    idle_group,
    lacks,
    may_join,
    prefill_group,
)


@compiled
def claim(fleet: Fleet, group: int, now_s: float) -> int:
    """Give one instance of the idle pool to a group and return it; NONE when the pool is empty.

    Those bound to the group's side (PD) come first, however slow: the other side may have nobody else than those that
    may do either.
    """
    i = claim_of(fleet, group, False, False, now_s)
    return i if i != NONE else claim_of(fleet, group, True, False, now_s)


@compiled
def claim_of(fleet: Fleet, group: int, either: bool, warm_only: bool, now_s: float) -> int:
    """Claim one of those bound to the group's side, or of those that may do either: without PD, all.

    `warm_only`: none that has to be started first.

    The least loaded comes first: one without best-effort work where there is one, else that work yields at once. One
    that is slower than others comes after them, and so does, among equals, one that has to be started.
    """
    pool, chosen, least, shortest_s = idle_group(fleet), NONE, math.inf, math.inf
    if not either and fleet.settings[0].num_roles == 0:
        return NONE
    for rank in range(fleet.group_size[pool] - 1, -1, -1):
        i = fleet.order[pool, rank]
        instance = fleet.instances[i]
        if instance.closed != FITS or (instance.role == EITHER) != either or not may_join(fleet, i, group):
            continue
        starts_s = start_s(fleet, i, now_s)
        if warm_only and starts_s > 0.0:
            continue
        if instance.slowness < least or (instance.slowness == least and starts_s < shortest_s):
            chosen, least, shortest_s = i, instance.slowness, starts_s
        if least == fleet.settings[0].least_slowness and shortest_s == 0.0:
            break
    if chosen == NONE:
        return NONE
    clear(fleet, chosen)
    instance = fleet.instances[chosen]
    fleet.settings[0].standby_s += _warm_s(fleet, chosen, now_s)
    instance.ready_s = now_s + shortest_s
    assign(fleet, chosen, group, now_s)
    if instance.ready_s > now_s:
        act(fleet, START, NONE, chosen)
    return chosen


@compiled
def start_s(fleet: Fleet, i: int, now_s: float) -> float:
    """Return how long an idle instance that is claimed now takes to start, seconds.

    While it is kept warm it is what is left of the start that it was claimed for before, mostly nothing.
    """
    instance = fleet.instances[i]
    if now_s - instance.idle_since_s < fleet.settings[0].keep_warm_s:
        return max(0.0, instance.ready_s - now_s)
    return fleet.settings[0].cold_start_s


@compiled
def _warm_s(fleet: Fleet, i: int, now_s: float) -> float:
    """Return how long an idle instance has been kept warm; 0 where starting one costs nothing."""
    if fleet.settings[0].cold_start_s == 0.0:
        return 0.0
    return min(now_s - fleet.instances[i].idle_since_s, fleet.settings[0].keep_warm_s)


@compiled
def standby_s(fleet: Fleet, now_s: float) -> float:
    """Return the instance-seconds that were spent on keeping idle instances warm until now."""
    spent_s, pool = fleet.settings[0].standby_s, idle_group(fleet)
    for rank in range(fleet.group_size[pool]):
        spent_s += _warm_s(fleet, fleet.order[pool, rank], now_s)
    return spent_s


@compiled
def is_starting(fleet: Fleet, group: int, now_s: float) -> bool:
    """Tell whether an instance of the group is still in its cold start."""
    for rank in range(fleet.group_size[group] - 1, -1, -1):
        i = fleet.order[group, rank]
        if fleet.instances[i].ready_s > now_s:
            return True
        if fleet.instances[i].num_residents > 0:
            break  # more loaded ones have been at work
    return False


@compiled
def assign(fleet: Fleet, i: int, group: int, now_s: float) -> None:
    """Put an instance into a group and set the iteration time that it keeps to."""
    instance = fleet.instances[i]
    _account(fleet, instance.group, now_s)
    _account(fleet, group, now_s)
    if instance.closed != FITS:
        _count_closed(fleet, i, -1)
    move_to_group(fleet, i, group)
    if instance.closed != FITS:
        _count_closed(fleet, i, 1)
    set_budget(fleet, i)
    own = 0
    for k in range(instance.num_residents):
        resident = fleet.requests[fleet.resident[i, k]]
        if resident.tier == group and resident.best_effort == 0:
            own += 1
    instance.num_own = own
    act(fleet, RETIER, NONE, i)


@compiled
def set_budget(fleet: Fleet, i: int) -> None:
    """Set the iteration time that an instance keeps to: what its group allows, by its own, perhaps slow, clock."""
    instance = fleet.instances[i]
    if instance.group == prefill_group(fleet):
        allowed_s = fleet.settings[0].prefill_budget_s
    elif instance.group < prefill_group(fleet):
        allowed_s = iteration_budget_s(fleet, instance.group)
    else:
        allowed_s = iteration_budget_s(fleet, 0)
    instance.budget_s = math.inf if lacks(fleet, CHUNKING) else allowed_s / instance.slowness


@compiled
def close_instance(fleet: Fleet, i: int, reason: int) -> None:
    """Let an instance take no new requests, for a `reason` (DRAINING, UNHEALTHY, ABSENT); FITS opens it again."""
    instance = fleet.instances[i]
    if instance.closed != FITS:
        _count_closed(fleet, i, -1)
    instance.closed = reason
    if reason != FITS:
        _count_closed(fleet, i, 1)
    note_least_slowness(fleet)


@compiled
def note_least_slowness(fleet: Fleet) -> None:
    """Remember how slow the least slow of the instances is that take requests; 1 where none does."""
    least = math.inf
    for i in range(fleet.instances.shape[0]):
        if fleet.instances[i].closed == FITS:
            least = min(least, fleet.instances[i].slowness)
    fleet.settings[0].least_slowness = least if least < math.inf else 1.0


@compiled
def leave_if_unneeded(fleet: Fleet, i: int, now_s: float) -> None:
    """Release an instance without requests (with an SLO); hand one with guests only to the tightest guest's tier.

    A hand-over waits until no prompt is queued: its iterations get longer, which first tokens may not survive.
    """
    instance = fleet.instances[i]
    if instance.num_own > 0 or instance.group == idle_group(fleet) or fleet.settings[0].elastic == 0:
        return
    if instance.num_residents == instance.num_best_effort:
        clear(fleet, i)
        if instance.num_decodes == 0 and instance.num_queued == 0:
            release(fleet, i, now_s)
        return
    if instance.num_queued > 0:
        return
    tightest = prefill_group(fleet)
    for k in range(instance.num_residents):
        resident = fleet.requests[fleet.resident[i, k]]
        if resident.best_effort == 0:
            tightest = min(tightest, resident.tier)
    if tightest < prefill_group(fleet) and tightest != instance.group:
        assign(fleet, i, tightest, now_s)


@compiled
def release(fleet: Fleet, i: int, now_s: float) -> None:
    """Return an instance to the idle pool."""
    fleet.instances[i].idle_since_s = now_s
    assign(fleet, i, idle_group(fleet), now_s)


@compiled
def take_over(fleet: Fleet, r: int, now_s: float) -> int:
    """Return an instance of a looser tier that now belongs to the request's tier, or NONE.

    The least loaded instance of the tier that owns most is asked first, then the other looser tiers' ones. Only
    an instance that can keep its residents' promises at the tighter pace is taken, and only by a tier that owns
    no open one (an observation of ports on few instances: otherwise the tier starves).
    """
    tier = fleet.requests[r].tier
    if least_loaded_open(fleet, tier) != NONE:
        return NONE
    budget_s, best, best_size = iteration_budget_s(fleet, tier), NONE, 0
    for looser in range(tier + 1, prefill_group(fleet)):
        size = fleet.group_size[looser]
        if size <= best_size:
            continue
        i = least_loaded_open(fleet, looser)
        if i == NONE:
            continue
        if fleet.settings[0].disaggregated == 1:
            fits = has_room(fleet, i, r, budget_s / fleet.instances[i].slowness)
        else:
            reason, _, _, _ = admit_colocated(fleet, i, r, now_s, budget_s / fleet.instances[i].slowness)
            fits = reason == FITS and fleet.instances[i].num_queued == 0
        if fits:
            best, best_size = i, size
    if best != NONE:
        assign(fleet, best, tier, now_s)
    return best


@compiled
def owned_instance_s(fleet: Fleet, group: int, now_s: float) -> float:
    """Return the instance-seconds that a group has owned until now."""
    return fleet.group_owned_s[group] + fleet.group_size[group] * (now_s - fleet.group_since_s[group])


@compiled
def _account(fleet: Fleet, group: int, now_s: float) -> None:
    fleet.group_owned_s[group] = owned_instance_s(fleet, group, now_s)
    fleet.group_since_s[group] = now_s


@compiled
def _count_closed(fleet: Fleet, i: int, change: int) -> None:
    if fleet.instances[i].group == idle_group(fleet):
        fleet.settings[0].num_closed_idle += change
