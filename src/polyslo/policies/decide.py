"""The decision surface: what every driver (simulator, gateway, replay) calls when something happened.

Each function takes the time as an argument, decides at once, and leaves what is to be done in `fleet.actions`.
"""

from __future__ import annotations

from polyslo.compiled import compiled
from polyslo.core.admission import admit_decode, iteration_budget_s
from polyslo.core.belief import (
    arrive,
    enqueue,
    observe_finished,
    promise_transfer,
    settle_iteration,
    take_back,
    unreserve,
    withdraw,
)
from polyslo.core.best_effort import feed_idle, feed_spare, take_in
from polyslo.core.gradient import least_loaded_open
from polyslo.core.ladder import choose_decode, give_up, retry_pending
from polyslo.core.pending import discard
from polyslo.core.scaling import claim, leave_if_unneeded
from polyslo.core.state import (
    DISPATCH,
    DONE,
    FITS,
    NO_RUNG,
    NONE,
    OWN,
    PENDING,
    REFUSE,
    REFUSED,
    RELEGATED,
    TRANSFER,
    Fleet,
    act,
    best_effort_queue,
    idle_group,
    prefill_group,
)
from polyslo.policies.table import EXTERNAL, POLYSERVE, choose


@compiled
def on_arrival(policy: int, fleet: Fleet, r: int, now_s: float) -> None:
    """A request arrived. (An external policy is asked by the driver, which then calls `send`.)"""
    arrive(fleet, r)
    if policy == EXTERNAL:
        return
    if policy == POLYSERVE and fleet.requests[r].without_slo == 1:
        take_in(fleet, r, now_s)
        return
    i = choose(policy, fleet, r, now_s)
    if policy != POLYSERVE:
        send(fleet, r, i, now_s)


@compiled
def send(fleet: Fleet, r: int, i: int, now_s: float) -> None:
    """Carry out the choice of a policy without a ladder; NONE refuses."""
    request = fleet.requests[r]
    request.decided_s = now_s
    if i == NONE:
        request.stage = REFUSED
        act(fleet, REFUSE, r, NONE)
        return
    request.rung = OWN
    fleet.counters[0, OWN] += 1
    act(fleet, DISPATCH, r, i)
    enqueue(fleet, r, i, now_s)


@compiled
def on_prefilled(policy: int, fleet: Fleet, r: int, now_s: float) -> None:
    """PD: a prefill ended; settle which decode instance takes the request."""
    d, foreseen = NONE, fleet.requests[r].decode_instance
    if policy == POLYSERVE:
        d = _settle(fleet, r, now_s)
    elif policy != EXTERNAL:
        d = choose(policy, fleet, r, now_s)
    if d == NONE or fleet.instances[d].closed != FITS:
        d = _any_decode(fleet, r, d if d != NONE else foreseen, now_s)
    if policy == POLYSERVE and d != foreseen:
        leave_if_unneeded(fleet, foreseen, now_s)
    promise_transfer(fleet, r, d)
    act(fleet, TRANSFER, r, d)


@compiled
def on_iteration_settled(policy: int, fleet: Fleet, i: int, began_s: float, now_s: float) -> None:
    """All facts of an iteration are in: foresee the next one, use the room that appeared, give back the rest."""
    settle_iteration(fleet, i, began_s)
    on_progress(policy, fleet, i, now_s)


@compiled
def on_progress(policy: int, fleet: Fleet, i: int, now_s: float) -> None:
    """An instance could have room (tokens came, a cold start or a transfer ended)."""
    if policy == POLYSERVE:
        retry_pending(fleet, i, now_s)
        leave_if_unneeded(fleet, i, now_s)
        if fleet.instances[i].group == idle_group(fleet):
            retry_pending(fleet, i, now_s)  # what pends elsewhere may claim it
            feed_idle(fleet, now_s)
        else:
            feed_spare(fleet, i, now_s)


@compiled
def on_finished(policy: int, fleet: Fleet, i: int, r: int, output_tokens: int, now_s: float) -> None:
    """A request's stream ended."""
    reserved = fleet.requests[r].decode_instance
    observe_finished(fleet, i, r, output_tokens)
    if policy == POLYSERVE and reserved != NONE:  # PD: a single token, nothing to decode
        leave_if_unneeded(fleet, reserved, now_s)


@compiled
def on_gone(policy: int, fleet: Fleet, r: int, now_s: float) -> None:
    """A request is over before its end: its client left, or its engine failed it."""
    request = fleet.requests[r]
    i, reserved = request.instance, request.decode_instance
    if request.stage == PENDING:
        discard(fleet, request.tier, r)
    elif request.stage == RELEGATED:
        discard(fleet, best_effort_queue(fleet), r)
    elif i != NONE:
        take_back(fleet, i, r)
        if fleet.instances[i].num_decodes == 0 and fleet.instances[i].num_queued == 0:
            fleet.instances[i].busy = 0
    request.stage = DONE
    request.instance = NONE
    if policy == POLYSERVE and reserved != NONE:
        leave_if_unneeded(fleet, reserved, now_s)
    if i != NONE:
        on_progress(policy, fleet, i, now_s)


@compiled
def on_withdrawn(policy: int, fleet: Fleet, i: int, r: int, now_s: float) -> None:
    """An engine gave a queued request back that can no longer meet its TTFT."""
    reserved = fleet.requests[r].decode_instance
    withdraw(fleet, i, r)
    if fleet.instances[i].num_decodes == 0 and fleet.instances[i].num_queued == 0:
        fleet.instances[i].busy = 0  # what was foreseen for it does not run
    if policy == POLYSERVE and reserved != NONE:
        leave_if_unneeded(fleet, reserved, now_s)
    give_up(fleet, r, now_s)


@compiled
def _any_decode(fleet: Fleet, r: int, otherwise: int, now_s: float) -> int:
    """Return an open decode instance, whatever becomes of its promises: the least loaded of the nearest tier.

    For external policies, which place the prefill side only, and for KV whose decode instance was closed meanwhile.
    Where all are closed one is claimed; `otherwise` (or the least loaded of group 0) is returned when nothing is left.
    """
    tier, num_tiers = fleet.requests[r].tier, prefill_group(fleet)
    for step in range(num_tiers):
        i = least_loaded_open(fleet, tier - step if step <= tier else step)
        if i != NONE:
            return i
    if fleet.settings[0].elastic == 1:
        i = claim(fleet, tier, now_s)
        if i != NONE:
            return i
    return otherwise if otherwise != NONE else fleet.order[0, fleet.group_size[0] - 1]


@compiled
def _settle(fleet: Fleet, r: int, now_s: float) -> int:
    """Keep the decode instance foreseen at arrival if it still fits, else look for another, else keep it."""
    request, foreseen = fleet.requests[r], fleet.requests[r].decode_instance
    rung = request.rung
    unreserve(fleet, r)
    if fleet.instances[foreseen].group < prefill_group(fleet):
        limit_s = iteration_budget_s(fleet, fleet.instances[foreseen].group)
        reason, _, _ = admit_decode(fleet, foreseen, r, now_s, now_s, limit_s)
        if reason == FITS:
            return foreseen
    chosen, _, _ = choose_decode(fleet, r, NONE, now_s, now_s)
    request.rung = rung if rung != NO_RUNG else OWN
    if chosen == NONE and fleet.instances[foreseen].group != idle_group(fleet):
        return foreseen
    return chosen
