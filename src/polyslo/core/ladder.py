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
from polyslo.core.admission import admit_colocated, admit_decode, admit_prefill, iteration_budget_s
from polyslo.core.belief import enqueue, reserve
from polyslo.core.forecast import MEMORY_MARGIN_RATIO
from polyslo.core.ledger import add_resident
from polyslo.core.pending import head, pop, push
from polyslo.core.profile import iteration_s
from polyslo.core.scaling import claim, is_starting, release, take_over
from polyslo.core.state import (
    DISPATCH,
    FALLBACK,
    FITS,
    FROM_PENDING,
    NO_RUNG,
    NONE,
    OWN,
    PROMOTED,
    RELEGATE,
    RELEGATED,
    SCALED_UP,
    TAKEN_OVER,
    Fleet,
    act,
    idle_group,
    prefill_group,
)


@compiled
def place_or_pend(fleet: Fleet, r: int, now_s: float) -> None:
    """Decide about a new request: dispatch it, or put it into its tier's pending queue."""
    if not place(fleet, r, now_s):
        push(fleet, fleet.requests[r].tier, r)


@compiled
def place(fleet: Fleet, r: int, now_s: float) -> bool:
    """Climb the ladder once; True when the request was dispatched."""
    if fleet.settings[0].disaggregated == 1:
        return _place_disaggregated(fleet, r, now_s)
    tier = fleet.requests[r].tier
    if _scan(fleet, tier, r, now_s, OWN):
        return True
    if fleet.settings[0].promote == 1:
        for tighter in range(tier - 1, -1, -1):
            if _scan(fleet, tighter, r, now_s, PROMOTED):
                return True
    if fleet.settings[0].elastic == 1:
        if is_starting(fleet, tier, now_s):
            return False  # one instance at a time: the one on its way may absorb what pends
        i = claim(fleet, tier, now_s)
        if i != NONE:
            placed = _try_instance(fleet, i, r, now_s, SCALED_UP)
            if not placed and fleet.instances[i].ready_s <= now_s:
                release(fleet, i, now_s)  # what an empty instance can't do, nobody can
            return placed
        i = take_over(fleet, r, now_s)
        if i != NONE:
            return _try_instance(fleet, i, r, now_s, TAKEN_OVER)
    return False


@compiled
def retry_pending(fleet: Fleet, i: int, now_s: float) -> None:
    """An instance made progress: offer it the pending requests of its tier, then of looser tiers."""
    group = fleet.instances[i].group
    if group == idle_group(fleet) or fleet.settings[0].disaggregated == 1:
        for tier in range(prefill_group(fleet)):
            _drain(fleet, tier, NONE, now_s)
        return
    for tier in range(group, prefill_group(fleet)):
        if tier > group and fleet.settings[0].promote == 0:
            break
        _drain(fleet, tier, i, now_s)
    for tier in range(group):  # expired heads of tighter tiers must not wait for their own instances
        drop_hopeless(fleet, tier, now_s)


@compiled
def is_hopeless(fleet: Fleet, r: int, now_s: float) -> bool:
    """Tell whether a request would miss its TTFT even on an idle instance of its tier, started now."""
    request = fleet.requests[r]
    alone_s = iteration_s(fleet.profile, 0, request.prefill_tokens, 0.0, 0.5 * request.prefill_tokens)
    return now_s + alone_s > request.first_due_s


@compiled
def _drain(fleet: Fleet, tier: int, i: int, now_s: float) -> None:
    """Place a tier's pending requests, earliest deadline first, until one does not fit."""
    drop_hopeless(fleet, tier, now_s)
    r = head(fleet, tier)
    while r != NONE:
        placed = _try_instance(fleet, i, r, now_s, FROM_PENDING) if i != NONE else place(fleet, r, now_s)
        if not placed:
            return
        pop(fleet, tier)
        fleet.requests[r].rung = FROM_PENDING
        r = head(fleet, tier)


@compiled
def drop_hopeless(fleet: Fleet, tier: int, now_s: float) -> None:
    """Relegate the heads of a pending queue that can no longer be served in time; or serve them late."""
    r = head(fleet, tier)
    while r != NONE and is_hopeless(fleet, r, now_s):
        if fleet.settings[0].relegate == 1:
            pop(fleet, tier)
            relegate(fleet, r)
        else:
            i = _roomiest(fleet, r)
            if i == NONE and fleet.settings[0].elastic == 1:
                i = claim(fleet, tier, now_s)
            if i == NONE:
                return
            pop(fleet, tier)
            fleet.requests[r].predicted_first_s = math.inf
            _dispatch(fleet, r, i, now_s, FALLBACK, math.inf, fleet.instances[i].iteration + 1)
        r = head(fleet, tier)


@compiled
def relegate(fleet: Fleet, r: int) -> None:
    """Make a request best-effort: it has missed its SLO, and may still be served where nothing else runs."""
    fleet.requests[r].stage = RELEGATED
    fleet.requests[r].rung = NO_RUNG
    act(fleet, RELEGATE, r, NONE)


@compiled
def _scan(fleet: Fleet, group: int, r: int, now_s: float, rung: int) -> bool:
    """Try a group's instances, most loaded first."""
    for rank in range(fleet.group_size[group]):
        if _try_instance(fleet, fleet.order[group, rank], r, now_s, rung):
            return True
    return False


@compiled
def _try_instance(fleet: Fleet, i: int, r: int, now_s: float, rung: int) -> bool:
    reason, first_s, iteration, peak_s = admit_colocated(fleet, i, r, now_s, fleet.instances[i].budget_s)
    _count_refusal(fleet, r, reason)
    if reason != FITS:
        return False
    fleet.requests[r].predicted_tpot_s = peak_s
    _dispatch(fleet, r, i, now_s, rung, first_s, iteration)
    return True


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
def _count_refusal(fleet: Fleet, r: int, reason: int) -> None:
    if reason != FITS:
        fleet.counters[1, reason] += 1
        fleet.requests[r].reasons |= 1 << reason


@compiled
def _roomiest(fleet: Fleet, r: int) -> int:
    """Return the least loaded instance of the own or a tighter tier where the batch stays sound, or NONE."""
    best, least = NONE, 0
    for group in range(fleet.requests[r].tier + 1):
        for rank in range(fleet.group_size[group] - 1, -1, -1):
            i = fleet.order[group, rank]
            instance = fleet.instances[i]
            held = instance.committed_tokens + fleet.requests[r].input_tokens + fleet.requests[r].expected_tokens
            sound = (
                instance.num_residents < instance.max_residents
                and held <= instance.kv_capacity_tokens * (1.0 - MEMORY_MARGIN_RATIO)
                and iteration_s(fleet.profile, instance.num_residents + 1, 0, held, 0.0) <= instance.budget_s
            )
            if sound and (best == NONE or instance.queued_tokens < least):
                best, least = i, instance.queued_tokens
                break
    return best


@compiled
def _place_disaggregated(fleet: Fleet, r: int, now_s: float) -> bool:
    """Choose both sides: a prefill instance for the first token, a decode instance for the rest."""
    p, first_s = _choose_prefill(fleet, r, now_s)
    spare = fleet.group_size[idle_group(fleet)]
    if p == NONE and (fleet.settings[0].elastic == 0 or spare == 0):
        return False
    foreseen_s = first_s if p != NONE else now_s + _alone_s(fleet, r)
    d, joins, rung = choose_decode(fleet, r, foreseen_s, now_s)
    if d == NONE:
        if fleet.settings[0].elastic == 0 or spare < (2 if p == NONE else 1):
            return False
        d = claim(fleet, fleet.requests[r].tier, now_s)
        if d == NONE:
            return False
        reason, joins, _ = admit_decode(
            fleet, d, r, foreseen_s, now_s, iteration_budget_s(fleet, fleet.requests[r].tier)
        )
        rung = SCALED_UP
        if reason != FITS:
            _count_refusal(fleet, r, reason)
            return False
    if p == NONE:
        p = claim(fleet, prefill_group(fleet), now_s)
        if p == NONE:
            return False
        reason, first_s = admit_prefill(fleet, p, r, now_s)
        rung = SCALED_UP
        if reason != FITS:
            _count_refusal(fleet, r, reason)
            return False
    request = fleet.requests[r]
    request.rung = rung
    request.predicted_first_s = first_s
    request.decided_s = now_s
    fleet.counters[0, rung] += 1
    reserve(fleet, r, d, joins)
    act(fleet, DISPATCH, r, p)
    enqueue(fleet, r, p, now_s)
    return True


@compiled
def _alone_s(fleet: Fleet, r: int) -> float:
    """Return the prefill time on an empty prefill instance, in whole iterations of its budget."""
    tokens, budget_s = fleet.requests[r].prefill_tokens, fleet.settings[0].prefill_budget_s
    return math.ceil(iteration_s(fleet.profile, 0, tokens, 0.0, 0.5 * tokens) / budget_s) * budget_s


@compiled
def _choose_prefill(fleet: Fleet, r: int, now_s: float) -> tuple[int, float]:
    """Return the most loaded prefill instance that still brings the first token in time, and when."""
    group = prefill_group(fleet)
    for rank in range(fleet.group_size[group]):
        i = fleet.order[group, rank]
        reason, first_s = admit_prefill(fleet, i, r, now_s)
        if reason == FITS:
            return i, first_s
        _count_refusal(fleet, r, reason)
    return NONE, math.inf


@compiled
def choose_decode(fleet: Fleet, r: int, prefilled_s: float, now_s: float) -> tuple[int, int, int]:
    """Return (decode instance, iteration after which it joins, rung): own tier, then the nearest tighter."""
    tier = fleet.requests[r].tier
    for group in range(tier, -1, -1):
        limit_s = iteration_budget_s(fleet, group)
        for rank in range(fleet.group_size[group]):
            i = fleet.order[group, rank]
            reason, joins, peak_s = admit_decode(fleet, i, r, prefilled_s, now_s, limit_s)
            if reason == FITS:
                fleet.requests[r].predicted_tpot_s = peak_s
                return i, joins, OWN if group == tier else PROMOTED
            _count_refusal(fleet, r, reason)
        if fleet.settings[0].promote == 0:
            break
    if fleet.settings[0].elastic == 1 and fleet.group_size[idle_group(fleet)] == 0:
        i = take_over(fleet, r, now_s)
        if i != NONE:
            reason, joins, peak_s = admit_decode(fleet, i, r, prefilled_s, now_s, iteration_budget_s(fleet, tier))
            if reason == FITS:
                return i, joins, TAKEN_OVER
    return NONE, 0, NO_RUNG
