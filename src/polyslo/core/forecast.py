"""What an instance would do with one more request: when its first token comes, and what the batch grows to.

First token: continuous chunked prefill prediction (PolyServe). Start when the running iteration ends (where that was
before now, the news of it is under way and the next one runs without the newcomer), walk the prefill queue iteration
by iteration, give each iteration the chunk budget that it will have as prompts turn into decodes, and let every
iteration last its **full** budgeted time: later arrivals will fill it (ours; counting only the tokens now queued made
4 to 15% of first tokens late). Decodes leave during the walk only where output lengths are known: counting on expected
lengths made up to 4% of first tokens late. On a prefill instance (PD) nothing decodes and iterations last what their
chunk costs: there whoever comes later is checked against everyone whom it delays.
Steady state and memory: the ledger's peak, where residents leave one by one while the rest grow.
"""

from __future__ import annotations

import math

from polyslo.compiled import compiled
from polyslo.core.chunking import SMALLEST_CHUNK, is_cut
from polyslo.core.ledger import peak
from polyslo.core.profile import USUAL_CHUNK, chunk_bound, decode_attention_s, iteration_s, largest_chunk, matrix_s
from polyslo.core.state import (
    DECODING,
    FIRST_TOKEN,
    FITS,
    KNOWN,
    MEMORY,
    MEMORY_TEST,
    NONE,
    PREDICTION,
    STEADY_STATE,
    WAIT,
    Fleet,
    lacks,
    prefill_group,
)

LATE_S = 1e-9  # rounding of sums of iterations
BEST_CHUNK_RATIO = 0.95  # the most efficient chunk costs at least this much of the full one's time per token
# Of the KV capacity, kept free: expected lengths are off, and queued prompts begin a few iterations off.
MEMORY_MARGIN_RATIO = 0.03


@compiled
def foresee_first_token(fleet: Fleet, i: int, r: int, now_s: float, budget_s: float) -> tuple[int, float, int]:
    """Return (FITS or FIRST_TOKEN, time of the first token, iteration that brings it).

    `budget_s` is the iteration time that the instance keeps to, by its profile (inf: a constant chunk). With queues by
    deadline the requests behind the newcomer must stay on time too. After a refusal time and iteration are lower
    bounds. A slow instance fills its iterations by the profile, as it knows no better, and takes longer for them.
    """
    instance, request, profile, requests = fleet.instances[i], fleet.requests[r], fleet.profile, fleet.requests
    by_deadline = fleet.settings[0].by_deadline == 1
    known = fleet.settings[0].lengths == KNOWN
    slowness = instance.slowness
    prefill_only = instance.group == prefill_group(fleet)
    due_s = request.prefill_due_s
    waits = not lacks(fleet, WAIT)
    end_s = instance.iteration_end_s if instance.busy == 1 and waits else instance.ready_s
    if not waits or (instance.busy == 0 and instance.num_queued == 0):
        end_s = max(end_s, now_s)
    iteration = instance.iteration + instance.busy
    decodes = instance.num_decodes
    kv = instance.decode_kv_tokens + instance.busy * instance.num_decodes
    q = instance.queue_head
    while q != NONE:  # prompts that end with the running iteration
        if requests[q].remaining_tokens == 0 and not prefill_only:
            decodes += 1
            kv += requests[q].prefill_tokens
        q = requests[q].next
    cuts = by_deadline and not prefill_only
    bounded = by_deadline and not known and math.isfinite(budget_s)
    if bounded and _surely_late(fleet, i, r, end_s, decodes, kv, budget_s):
        return FIRST_TOKEN, due_s, iteration
    q = instance.queue_head
    q_remaining = requests[q].remaining_tokens if q != NONE else 0
    own_remaining, leaving, usual = request.remaining_tokens, 0, USUAL_CHUNK
    first_s, first_iteration = math.inf, iteration
    while True:
        while known and leaving < instance.num_residents and fleet.resident_finish[i, leaving] <= iteration:
            if requests[fleet.resident[i, leaving]].stage == DECODING:
                decodes -= 1
                kv -= fleet.resident_base[i, leaving] + iteration
            leaving += 1
        spare_s = budget_s - profile.physics[0].host_s - decode_attention_s(profile, decodes, kv)
        limit = instance.chunk_limit - decodes
        chunk, pairs, ended, ended_kv, earliest_due_s, own_ended = 0, 0.0, 0, 0, math.inf, False
        length_s = budget_s
        own_waits = own_remaining > 0 and end_s >= now_s
        while chunk < limit:
            own = own_waits and (q == NONE or (by_deadline and requests[q].first_due_s > request.first_due_s))
            if not own and (q == NONE or requests[q].decided_s > end_s):
                break
            remaining = own_remaining if own else q_remaining
            total = request.prefill_tokens if own else requests[q].prefill_tokens
            take = min(remaining, limit - chunk)
            if take > 0 and math.isfinite(budget_s):
                left_s = spare_s - profile.physics[0].prefill_s_per_pair * pairs
                take = largest_chunk(profile, left_s, decodes + chunk, total - remaining, take, usual - chunk)
                if take == 0 and chunk == 0 and decodes == 0:
                    take = min(remaining, limit, SMALLEST_CHUNK)
                if take == 0:
                    break
            pairs += take * (total - remaining + 0.5 * take)
            chunk += take
            if own:
                own_remaining -= take
                own_ended = own_remaining == 0
                own_waits = not own_ended
            else:
                q_remaining -= take
            if take < remaining:
                break
            if remaining > 0:
                ended += 1
                ended_kv += total
                due_in_s = (request.first_due_s if own else requests[q].first_due_s) - end_s
                if cuts and is_cut(profile, length_s, due_in_s, decodes, chunk, kv, pairs):
                    spare_s -= length_s - due_in_s
                    length_s = due_in_s
            if not own:
                if (own_remaining == 0 or prefill_only) and _is_promised(fleet, q):
                    earliest_due_s = min(earliest_due_s, requests[q].prefill_due_s)
                q = requests[q].next
                q_remaining = requests[q].remaining_tokens if q != NONE else 0
        usual = chunk
        if chunk == 0 and decodes == 0 and end_s < now_s:
            end_s = now_s  # nothing to do until the newcomer comes
            continue
        context = pairs / chunk if chunk > 0 else 0.0
        if prefill_only:
            end_s += slowness * iteration_s(profile, decodes, chunk, kv, context)
            if own_remaining == request.remaining_tokens:
                earliest_due_s = math.inf  # nothing of the newcomer's in it: as before
        elif math.isfinite(budget_s):
            end_s += slowness * length_s
        else:
            end_s += slowness * iteration_s(profile, decodes, max(1, limit), kv, context)
        iteration += 1
        if own_ended:
            first_s, first_iteration = end_s, iteration
        if end_s > earliest_due_s + LATE_S or (first_s == math.inf and end_s >= due_s):
            return FIRST_TOKEN, min(first_s, end_s), iteration
        if first_s < math.inf:
            if first_s > due_s + LATE_S:
                return FIRST_TOKEN, first_s, first_iteration
            if q == NONE or not by_deadline:
                return FITS, first_s, first_iteration
            if chunk == 0 and not known:  # decodes don't leave in this walk: those behind never get on
                return FIRST_TOKEN if _any_promised(fleet, q) else FITS, first_s, first_iteration
        if not prefill_only and not lacks(fleet, PREDICTION):
            kv += decodes + ended_kv
            decodes += ended


@compiled
def _any_promised(fleet: Fleet, q: int) -> bool:
    """Tell whether a prompt, or one behind it in its queue, was promised a first token that is still to come."""
    while q != NONE:
        if _is_promised(fleet, q):
            return True
        q = fleet.requests[q].next
    return False


@compiled
def _is_promised(fleet: Fleet, q: int) -> bool:
    """Tell whether a queued prompt was promised a first token in time that is still to come."""
    request = fleet.requests[q]
    return request.remaining_tokens > 0 and request.predicted_first_s <= request.prefill_due_s


@compiled
def _surely_late(fleet: Fleet, i: int, r: int, end_s: float, decodes: int, kv: int, budget_s: float) -> bool:
    """Tell whether the newcomer, or a prompt behind it, is late even if no chunk ever shrinks: a cheap bound.

    From `end_s` on every iteration carries what fits beside the decodes of now, were prompts without attention.
    """
    instance, request, profile, requests = fleet.instances[i], fleet.requests[r], fleet.profile, fleet.requests
    fixed_s = profile.physics[0].host_s + decode_attention_s(profile, decodes, kv)
    chunk = chunk_bound(profile, budget_s - fixed_s, decodes, instance.chunk_limit - decodes)
    if chunk == 0:
        return decodes > 0
    shrinks = instance.group == prefill_group(fleet)  # there a smaller chunk is a shorter iteration
    full_s = BEST_CHUNK_RATIO * budget_s if shrinks else budget_s
    tokens, passed, q = 0, False, instance.queue_head
    while q != NONE or not passed:
        late_s = math.inf
        if not passed and (q == NONE or requests[q].first_due_s > request.first_due_s):
            passed = True
            tokens += request.remaining_tokens
            late_s = request.prefill_due_s
        else:
            tokens += requests[q].remaining_tokens
            if passed and _is_promised(fleet, q):
                late_s = requests[q].prefill_due_s
            q = requests[q].next
        if late_s < math.inf:
            least_s = (tokens // chunk) * full_s
            if tokens % chunk > 0:  # the last iteration may be cut
                least_s += BEST_CHUNK_RATIO * (fixed_s + matrix_s(profile, decodes + tokens % chunk))
            if end_s + instance.slowness * least_s > late_s + LATE_S:
                return True
    return False


@compiled
def has_room(fleet: Fleet, i: int, r: int, limit_s: float) -> bool:
    """Tell whether an open instance's slots, memory and an iteration of `limit_s` (by its profile) hold it as well."""
    instance = fleet.instances[i]
    if instance.closed != FITS or instance.num_residents >= instance.max_residents:
        return False
    reason, _ = foresee_batch(fleet, i, r, instance.iteration + 1, instance.slowness * limit_s, 0)
    return reason == FITS


@compiled
def foresee_batch(fleet: Fleet, i: int, r: int, start_iteration: int, limit_s: float, chunk: int) -> tuple[int, float]:
    """Return (FITS, MEMORY or STEADY_STATE, iteration time at the peak) with the request in the batch.

    The largest KV must fit the instance, and an iteration of all residents at that KV with `chunk` prompt tokens
    must take at most `limit_s`. What was promised in all bounds both from above and often settles them.
    """
    instance, request = fleet.instances[i], fleet.requests[r]
    capacity = instance.kv_capacity_tokens * (1.0 - MEMORY_MARGIN_RATIO)
    count = instance.num_residents + 1
    promised = instance.committed_tokens + request.input_tokens + request.expected_tokens
    at_peak_s = instance.slowness * iteration_s(fleet.profile, count, chunk, promised, 0.0)
    if promised <= capacity and at_peak_s <= limit_s:
        return FITS, at_peak_s
    outstanding = max(1, request.expected_tokens - request.emitted_tokens - 1)
    held = peak(fleet, i, start_iteration + outstanding, request.prefill_tokens - start_iteration)
    if held > capacity and not lacks(fleet, MEMORY_TEST):
        return MEMORY, 0.0
    at_peak_s = instance.slowness * iteration_s(fleet.profile, count, chunk, held, 0.0)
    return (FITS if at_peak_s <= limit_s else STEADY_STATE), at_peak_s
