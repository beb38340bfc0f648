"""May this instance take this request and keep every promise, to the newcomer and to its residents?

Four tests (PolyServe sections on admission; memory after a port that lacked it): first token, second token,
steady state, memory. The first that fails is the reason of the refusal. A tighter tier's instance is judged by
its own TPOT, so its residents are safe.
"""

from __future__ import annotations

import math

from polyslo.compiled import compiled
from polyslo.core.forecast import foresee_batch, foresee_first_token
from polyslo.core.profile import fastest_prefill_s, iteration_s
from polyslo.core.state import (
    FIRST_TOKEN,
    FITS,
    MEMORY,
    MEMORY_TEST,
    SECOND_TOKEN,
    WAIT,
    Fleet,
    lacks,
)


@compiled
def iteration_budget_s(fleet: Fleet, tier: int) -> float:
    """Return the longest iteration of a tier's instances: its TPOT less the margin, seconds."""
    return fleet.tpots_s[tier] * (1.0 - fleet.settings[0].margin_ratio)


@compiled
def pace_s(fleet: Fleet, i: int) -> float:
    """Return the longest iteration that an instance's tier allows; inf where instances serve all tiers."""
    instance = fleet.instances[i]
    if math.isfinite(instance.budget_s) or fleet.settings[0].elastic == 0:
        return instance.slowness * instance.budget_s
    return iteration_budget_s(fleet, instance.group)  # its chunk is constant, its tier's TPOT holds


@compiled
def admit_colocated(fleet: Fleet, i: int, r: int, now_s: float, budget_s: float) -> tuple[int, float, int, float]:
    """Judge one co-located instance: (reason, first token, its iteration, iteration time at the peak).

    `budget_s` is the iteration time that it would keep to, by its profile: over `slowness` of what its tier allows.
    """
    instance, request = fleet.instances[i], fleet.requests[r]
    if instance.closed != FITS:
        return instance.closed, math.inf, 0, 0.0
    if instance.num_residents >= instance.max_residents:
        return MEMORY, math.inf, 0, 0.0
    own_s = instance.slowness * budget_s
    limit_s = own_s if math.isfinite(budget_s) else min(request.tpot_s, pace_s(fleet, i))
    filled = 0 if math.isfinite(budget_s) else max(0, instance.chunk_limit - instance.num_residents - 1)
    reason, peak_s = foresee_batch(fleet, i, r, instance.iteration + 1, limit_s, filled)
    if reason != FITS:
        return reason, math.inf, 0, peak_s
    reason, first_s, iteration = foresee_first_token(fleet, i, r, now_s, budget_s)
    if reason != FITS:
        return reason, first_s, iteration, peak_s
    next_s = own_s if math.isfinite(budget_s) else peak_s
    if not lacks(fleet, WAIT) and first_s + next_s > request.first_due_s + request.tpot_s + 1e-9:
        return SECOND_TOKEN, first_s, iteration, peak_s
    return FITS, first_s, iteration, peak_s


@compiled
def admit_prefill(fleet: Fleet, i: int, r: int, now_s: float) -> tuple[int, float]:
    """Judge one prefill instance (PD): (reason, end of prefill). Its TPOT does not bind, its memory does."""
    instance, request = fleet.instances[i], fleet.requests[r]
    if instance.closed != FITS:
        return instance.closed, math.inf
    held = instance.kv_tokens + instance.queued_tokens + request.input_tokens
    if held > instance.kv_capacity_tokens and not lacks(fleet, MEMORY_TEST):
        return MEMORY, math.inf
    reason, first_s, _ = foresee_first_token(fleet, i, r, now_s, instance.budget_s)
    return reason, first_s


@compiled
def admit_decode(
    fleet: Fleet, i: int, r: int, prefilled_s: float, now_s: float, limit_s: float
) -> tuple[int, int, float]:
    """Judge one decode instance (PD) for KV that leaves its prefill instance at `prefilled_s`.

    Returns (reason, iteration after which the request joins, iteration time at the peak). The second token is
    due one TPOT after the first: transfer, the iteration then running, and its own must fit in between. Where the
    decode side gives the first token, its deadline is that one's.
    """
    instance, request = fleet.instances[i], fleet.requests[r]
    if instance.closed != FITS:
        return instance.closed, 0, 0.0
    if instance.num_residents >= instance.max_residents:
        return MEMORY, 0, 0.0
    kv_tokens = instance.decode_kv_tokens + request.prefill_tokens
    step_s = instance.slowness * iteration_s(fleet.profile, instance.num_residents + 1, 0, kv_tokens, 0.0)
    arrives_s = max(prefilled_s + transfer_s(fleet, request.prefill_tokens), instance.ready_s)
    joins = instance.iteration + int(max(0.0, arrives_s - now_s) / step_s) + 1
    reason, peak_s = foresee_batch(fleet, i, r, joins, limit_s, 0)
    if reason != FITS:
        return reason, joins, peak_s
    from_decode = fleet.settings[0].first_from_decode == 1
    due_s = request.first_due_s if from_decode else request.first_due_s + request.tpot_s
    if not lacks(fleet, WAIT) and arrives_s + 2.0 * peak_s > due_s:
        return FIRST_TOKEN if from_decode else SECOND_TOKEN, joins, peak_s
    return FITS, joins, peak_s


@compiled
def prefill_due_s(fleet: Fleet, r: int) -> float:
    """Return when a request's prefill must have ended by the forecast. The margin is kept of the TTFT, too.

    CO: when its first token is due. PD: so early that after the transfer the iteration then running and the
    request's own, both as long as its tier allows, end before the decode side's first one is due (the second token,
    or the first where the decode side gives that); but never so early that more than half of what the TTFT leaves
    beside the prefill itself is given up.
    """
    request = fleet.requests[r]
    due_s = request.first_due_s - fleet.settings[0].margin_ratio * (request.first_due_s - request.arrival_s)
    if fleet.settings[0].disaggregated == 0:
        return due_s
    reserve_s = transfer_s(fleet, request.input_tokens) + 2.0 * iteration_budget_s(fleet, request.tier)
    if fleet.settings[0].first_from_decode == 0:
        reserve_s -= request.tpot_s
    spare_s = due_s - request.arrival_s - alone_s(fleet, r)
    return due_s - max(0.0, min(reserve_s, 0.5 * spare_s))


@compiled
def handover_due_s(fleet: Fleet, r: int, i: int) -> float:
    """Return when a prefill must have ended for decode instance `i` to keep the promise, whoever else it takes (PD).

    After the transfer the iteration then running and the request's own may both be as long as the tier's TPOT allows.
    """
    request = fleet.requests[r]
    due_s = request.first_due_s if fleet.settings[0].first_from_decode == 1 else request.first_due_s + request.tpot_s
    return due_s - transfer_s(fleet, request.prefill_tokens) - 2.0 * pace_s(fleet, i)


@compiled
def alone_s(fleet: Fleet, r: int) -> float:
    """Return the least time that a request's prefill takes on an idle instance, seconds."""
    return fleet.settings[0].least_slowness * fastest_prefill_s(fleet.profile, fleet.requests[r].prefill_tokens)


@compiled
def transfer_s(fleet: Fleet, tokens: int) -> float:
    """Return how long the KV of `tokens` takes from a prefill to a decode instance, seconds."""
    return fleet.settings[0].transfer_s + fleet.settings[0].transfer_s_per_token * tokens
