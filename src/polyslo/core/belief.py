"""How belief follows the world: what was dispatched, and what the engines' streams have shown.

Shells report facts in order of time: a request was sent; an iteration ended and these requests received their
first token, these finished, these were preempted. Between facts belief runs the same chunk rule as the engine,
so with an exact profile and no delay it equals the truth, and otherwise the next fact sets it right.
"""

from __future__ import annotations

import math

from polyslo.compiled import compiled
from polyslo.core.admission import prefill_due_s
from polyslo.core.chunking import plan_chunk
from polyslo.core.gradient import change_load
from polyslo.core.ledger import add_resident, overdue_resident, remove_resident
from polyslo.core.lengths import expected_length, learn_length
from polyslo.core.prefill_queue import insert_at_head, insert_in_queue, remove_from_queue
from polyslo.core.profile import iteration_s
from polyslo.core.state import (
    DECODING,
    DONE,
    KNOWN,
    NEW,
    NONE,
    QUEUED,
    RELEGATED,
    TRANSFERRING,
    Fleet,
    prefill_group,
)


@compiled
def arrive(fleet: Fleet, r: int) -> None:
    """Enter a new request; its record already holds arrival, SLO, tier, prompt and max_tokens."""
    request = fleet.requests[r]
    request.stage = NEW
    request.prefill_tokens = request.input_tokens
    request.remaining_tokens = request.input_tokens
    request.emitted_tokens = 0
    request.hands_over = 0
    request.best_effort = 0
    request.prefill_due_s = prefill_due_s(fleet, r)
    if request.hinted_tokens > 0:
        request.expected_tokens = min(request.hinted_tokens, request.max_tokens)
    elif fleet.settings[0].lengths != KNOWN:
        request.expected_tokens = expected_length(fleet, request.tier, 0, request.max_tokens)


@compiled
def enqueue(fleet: Fleet, r: int, i: int, now_s: float) -> None:
    """A request was sent to an instance that will prefill it."""
    fleet.requests[r].hands_over = 1 if fleet.instances[i].group == prefill_group(fleet) else 0
    _enter_queue(fleet, r, i, now_s)


@compiled
def _enter_queue(fleet: Fleet, r: int, i: int, now_s: float) -> None:
    request, instance = fleet.requests[r], fleet.instances[i]
    request.instance = i
    request.stage = QUEUED
    insert_in_queue(fleet.requests, instance, r, fleet.settings[0].by_deadline == 1)
    instance.queued_tokens += request.remaining_tokens
    instance.last_sent_s = max(instance.last_sent_s, request.decided_s)
    change_load(fleet, i, _load(fleet, r, i))
    _count_own(fleet, r, i, 1)
    if instance.busy == 0 and now_s >= instance.ready_s:
        begin_iteration(fleet, i, instance.ready_s)


@compiled
def observe_first_token(fleet: Fleet, i: int, r: int) -> None:
    """A request's prefill ended with the iteration now being reported."""
    request, instance = fleet.requests[r], fleet.instances[i]
    remove_from_queue(fleet.requests, instance, r)
    instance.queued_tokens -= request.remaining_tokens
    # Belief credits the prompt to the KV as its chunks run; what it had not credited yet is known now.
    instance.kv_tokens += request.remaining_tokens
    request.remaining_tokens = 0
    if request.hands_over == 1:
        request.stage = TRANSFERRING
        return
    remove_resident(fleet, i, r)
    begin_decoding(fleet, i, r, instance.iteration)


@compiled
def begin_decoding(fleet: Fleet, i: int, r: int, iteration: int) -> None:
    """A request joins an instance's batch after `iteration`, its KV already counted in `kv_tokens`."""
    request, instance = fleet.requests[r], fleet.instances[i]
    request.stage = DECODING
    request.instance = i
    instance.num_decodes += 1
    instance.decode_kv_tokens += request.prefill_tokens
    add_resident(fleet, i, r, iteration)


@compiled
def reserve(fleet: Fleet, r: int, i: int, start_iteration: int) -> None:
    """PD: promise a decode instance to a request that is still being prefilled."""
    fleet.requests[r].decode_instance = i
    add_resident(fleet, i, r, start_iteration)
    change_load(fleet, i, _load(fleet, r, i))
    _count_own(fleet, r, i, 1)


@compiled
def unreserve(fleet: Fleet, r: int) -> None:
    """PD: take that promise back."""
    i = fleet.requests[r].decode_instance
    if i == NONE:
        return
    remove_resident(fleet, i, r)
    change_load(fleet, i, -_load(fleet, r, i))
    _count_own(fleet, r, i, -1)
    fleet.requests[r].decode_instance = NONE


@compiled
def promise_transfer(fleet: Fleet, r: int, i: int) -> None:
    """PD: the KV of a prefilled request is on its way to decode instance `i`."""
    fleet.requests[r].decode_instance = NONE
    reserve(fleet, r, i, fleet.instances[i].iteration + 1)


@compiled
def observe_transfer_ended(fleet: Fleet, r: int, i: int, now_s: float) -> None:
    """PD: the KV has left its prefill instance and arrived; the request decodes from the next iteration on."""
    request, instance = fleet.requests[r], fleet.instances[i]
    source = fleet.instances[request.instance]
    source.kv_tokens -= request.prefill_tokens
    change_load(fleet, request.instance, -request.input_tokens)
    source.num_own -= 1
    request.decode_instance = NONE
    request.hands_over = 0
    instance.kv_tokens += request.prefill_tokens
    remove_resident(fleet, i, r)
    request.emitted_tokens -= fleet.settings[0].first_from_decode  # the end of its prefill gave none
    begin_decoding(fleet, i, r, instance.iteration + instance.busy)
    if instance.busy == 1:  # it is not in the iteration that runs now
        instance.decode_kv_tokens -= 1
        instance.kv_tokens -= 1
    elif now_s >= instance.ready_s:
        begin_iteration(fleet, i, now_s)


@compiled
def drop_transfer(fleet: Fleet, r: int) -> None:
    """PD: nobody will fetch the KV of a prefilled request, so its prefill instance frees it.

    vLLM frees what was never fetched after a timeout only (`VLLM_NIXL_ABORT_REQUEST_TIMEOUT`, 480 s); what is on its
    way to a decode instance when that is told to stop, it frees at once. That is what is believed.
    """
    request = fleet.requests[r]
    source = fleet.instances[request.instance]
    source.kv_tokens -= request.prefill_tokens
    change_load(fleet, request.instance, -request.input_tokens)
    source.num_own -= 1
    unreserve(fleet, r)
    request.remaining_tokens = request.prefill_tokens
    request.stage = RELEGATED
    request.instance = NONE


@compiled
def observe_finished(fleet: Fleet, i: int, r: int, output_tokens: int) -> None:
    """A request's stream ended with the iteration now being reported."""
    request, instance = fleet.requests[r], fleet.instances[i]
    if request.stage == TRANSFERRING:  # PD: a single token, nothing to transfer
        instance.kv_tokens -= request.prefill_tokens
        unreserve(fleet, r)
    else:
        held = request.prefill_tokens + (instance.iteration - request.start_iteration)
        instance.num_decodes -= 1
        instance.decode_kv_tokens -= held
        instance.kv_tokens -= held
    _leave(fleet, i, r)
    if request.without_slo == 0:
        learn_length(fleet, request.tier, output_tokens)


@compiled
def observe_preempted(fleet: Fleet, i: int, r: int) -> None:
    """The engine threw a request's KV away: prompt and emitted tokens are to be prefilled again."""
    request, instance = fleet.requests[r], fleet.instances[i]
    _stop_decoding(fleet, i, r)
    remove_resident(fleet, i, r)
    add_resident(fleet, i, r, instance.iteration + 1)
    request.stage = QUEUED
    insert_at_head(fleet.requests, instance, r)
    instance.queued_tokens += request.remaining_tokens


@compiled
def observe_restarted(fleet: Fleet, i: int) -> None:
    """Partly prefilled prompts held all KV: the engine keeps the first one's and prefills the others again."""
    instance = fleet.instances[i]
    r = fleet.requests[instance.queue_head].next if instance.queue_head != NONE else NONE
    while r != NONE:
        request = fleet.requests[r]
        done = request.prefill_tokens - request.remaining_tokens
        instance.kv_tokens -= done
        instance.queued_tokens += done
        request.remaining_tokens = request.prefill_tokens
        r = request.next


@compiled
def withdraw(fleet: Fleet, i: int, r: int) -> None:
    """A queued request was taken back from its instance (relegated before it was prefilled)."""
    request, instance = fleet.requests[r], fleet.instances[i]
    remove_from_queue(fleet.requests, instance, r)
    instance.queued_tokens -= request.remaining_tokens
    instance.kv_tokens -= request.prefill_tokens - request.remaining_tokens
    request.remaining_tokens = request.prefill_tokens
    unreserve(fleet, r)
    _leave(fleet, i, r)
    request.stage = RELEGATED
    request.instance = NONE


@compiled
def take_back(fleet: Fleet, i: int, r: int) -> None:
    """A request leaves its instance unfinished; what it has emitted counts as prompt from now on."""
    request = fleet.requests[r]
    if request.stage == DECODING:
        _stop_decoding(fleet, i, r)
        _leave(fleet, i, r)
        request.instance = NONE
    elif request.stage == TRANSFERRING:
        drop_transfer(fleet, r)
    else:
        withdraw(fleet, i, r)


@compiled
def put_back(fleet: Fleet, i: int, r: int, now_s: float) -> None:
    """Undo `take_back`: what a client was sent can't be taken back, so the request goes on where it was, for good."""
    request, instance = fleet.requests[r], fleet.instances[i]
    request.best_effort = 0
    if request.emitted_tokens == 0:  # its first token is not known of yet
        add_resident(fleet, i, r, instance.iteration + 1)
        request.hands_over = 0  # whatever the instance has become since
        _enter_queue(fleet, r, i, now_s)
        return
    request.emitted_tokens -= 1
    request.prefill_tokens = request.input_tokens + request.emitted_tokens
    request.remaining_tokens = 0
    change_load(fleet, i, _load(fleet, r, i))
    _count_own(fleet, r, i, 1)
    instance.kv_tokens += request.prefill_tokens
    begin_decoding(fleet, i, r, instance.iteration)
    if instance.busy == 0:
        begin_iteration(fleet, i, now_s)


@compiled
def observe_iteration_end(fleet: Fleet, i: int) -> None:
    """An iteration ended: every decode that was in it holds one KV token more.

    Call it before the iteration's first tokens and finishes are reported.
    """
    instance = fleet.instances[i]
    instance.iteration += 1
    instance.decode_kv_tokens += instance.num_decodes
    instance.kv_tokens += instance.num_decodes
    instance.busy = 0


@compiled
def settle_iteration(fleet: Fleet, i: int, began_s: float) -> None:
    """After all facts of an iteration: correct expectations that proved short, begin the next iteration."""
    instance = fleet.instances[i]
    r = overdue_resident(fleet, i)
    while r != NONE:
        _outlived(fleet, i, r)
        r = overdue_resident(fleet, i)
    if instance.busy == 0 and (instance.num_decodes > 0 or instance.num_queued > 0):
        begin_iteration(fleet, i, began_s)


@compiled
def begin_iteration(fleet: Fleet, i: int, began_s: float) -> None:
    """Foresee the iteration that the engine began: its chunk and its end. What was sent since is not in it.

    Without decodes it began with the first prompt sent, if that was later.
    """
    instance = fleet.instances[i]
    if instance.num_decodes == 0:
        began_s = _had_work_s(fleet, i, began_s)
    hidden = instance.last_sent_s > began_s and _hide_sent_after(fleet, i, began_s)
    cuts = fleet.settings[0].by_deadline == 1 and instance.group != prefill_group(fleet)
    plan_from_s = began_s if cuts else math.inf
    chunk, pairs = plan_chunk(fleet.profile, fleet.requests, instance, instance.max_residents, plan_from_s)
    if hidden:
        _hide_sent_after(fleet, i, began_s)
    context = pairs / chunk if chunk > 0 else 0.0
    duration_s = iteration_s(fleet.profile, instance.num_decodes, chunk, instance.decode_kv_tokens, context)
    duration_s *= instance.slowness
    instance.busy = 1 if chunk + instance.num_decodes > 0 else 0
    instance.chunk = chunk
    instance.queued_tokens -= chunk
    instance.kv_tokens += chunk
    instance.iteration_end_s = began_s + duration_s


@compiled
def _had_work_s(fleet: Fleet, i: int, from_s: float) -> float:
    """Return from when on an instance without decodes had a prompt: `from_s`, or when the first was sent, if later."""
    first_s, r = math.inf, fleet.instances[i].queue_head
    while r != NONE and first_s > from_s:
        first_s = min(first_s, fleet.requests[r].decided_s)
        r = fleet.requests[r].next
    return max(first_s, from_s)


@compiled
def _hide_sent_after(fleet: Fleet, i: int, at_s: float) -> bool:
    """Flip the sign of what remains of prompts sent after `at_s`: the chunk rule passes over them. Twice restores.

    Returns whether there were any.
    """
    hidden = False
    r = fleet.instances[i].queue_head
    while r != NONE:
        if fleet.requests[r].decided_s > at_s:
            fleet.requests[r].remaining_tokens *= -1
            hidden = True
        r = fleet.requests[r].next
    return hidden


@compiled
def emitted_tokens(fleet: Fleet, i: int, r: int) -> int:
    """Return how many tokens a decoding request has been given."""
    request = fleet.requests[r]
    return request.emitted_tokens + 1 + int(fleet.instances[i].iteration - request.start_iteration)


@compiled
def _stop_decoding(fleet: Fleet, i: int, r: int) -> None:
    """Take a decode out of its batch, its KV thrown away: prompt and emitted tokens are to be prefilled again."""
    request, instance = fleet.requests[r], fleet.instances[i]
    passed = instance.iteration - request.start_iteration
    held = request.prefill_tokens + passed
    instance.num_decodes -= 1
    instance.decode_kv_tokens -= held
    instance.kv_tokens -= held
    request.emitted_tokens += passed + 1
    request.prefill_tokens = request.input_tokens + request.emitted_tokens
    request.remaining_tokens = request.prefill_tokens


@compiled
def _leave(fleet: Fleet, i: int, r: int) -> None:
    remove_resident(fleet, i, r)
    change_load(fleet, i, -_load(fleet, r, i))
    _count_own(fleet, r, i, -1)
    fleet.requests[r].stage = DONE


@compiled
def _outlived(fleet: Fleet, i: int, r: int) -> None:
    """A resident emitted more than expected: expect what those that lived this long emitted."""
    request = fleet.requests[r]
    remove_resident(fleet, i, r)
    if request.stage == DECODING:
        emitted = emitted_tokens(fleet, i, r)
        longer = expected_length(fleet, request.tier, emitted, max(request.max_tokens, emitted + 1))
        before = _load(fleet, r, i)
        request.expected_tokens = longer
        change_load(fleet, i, _load(fleet, r, i) - before)
        add_resident(fleet, i, r, request.start_iteration)
    else:
        add_resident(fleet, i, r, fleet.instances[i].iteration + 1)  # its prefill runs late


@compiled
def _load(fleet: Fleet, r: int, i: int) -> int:
    """Return what a request adds to an instance's load: where it is prefilled for another one, the prompt alone.

    Best-effort work adds nothing where others have an SLO.
    """
    request = fleet.requests[r]
    if request.best_effort == 1 and fleet.instances[i].group < prefill_group(fleet):
        return 0
    if request.hands_over == 1 and fleet.instances[i].group == prefill_group(fleet):
        return request.input_tokens
    return request.input_tokens + request.expected_tokens


@compiled
def _count_own(fleet: Fleet, r: int, i: int, change: int) -> None:
    instance = fleet.instances[i]
    if fleet.requests[r].best_effort == 1:
        instance.num_best_effort += change
    elif instance.group == fleet.requests[r].tier or instance.group == prefill_group(fleet):
        instance.num_own += change
