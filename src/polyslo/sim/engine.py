"""One engine, exact to the iteration and token: continuous batching, chunked prefill, KV limit, preemption.

After vLLM's V1 scheduler: decodes first, then prompt chunks in queue order within the token (or time) budget;
when KV runs out the latest request loses its own and is recomputed. An iteration's cost here does not depend on
how many tokens it emits beyond one sweep over due times: a token of iteration j is due at `slot_due + j * tpot`.
"""

from __future__ import annotations

import math

from polyslo.compiled import compiled
from polyslo.core.chunking import plan_chunk
from polyslo.core.prefill_queue import insert_at_head, insert_in_queue, remove_from_queue
from polyslo.core.profile import fastest_prefill_s, iteration_s
from polyslo.core.randomness import next_state, uniform
from polyslo.core.state import NONE
from polyslo.sim.events import schedule
from polyslo.sim.world import (
    ATTAINED,
    F_FINISHED,
    F_FIRST_TOKEN,
    F_ITERATION_END,
    F_PREEMPTED,
    F_PREFILLED,
    F_RESTARTED,
    F_WITHDRAWN,
    ITERATION_END,
    MISSED,
    RELEGATED_OUT,
    World,
)

LATE_S = 1e-9  # sums of iteration times round


@compiled
def submit(world: World, i: int, r: int, now_s: float) -> None:
    """A request reaches an engine's prefill queue; an idle engine begins at once."""
    engine, job = world.engines[i], world.jobs[r]
    job.instance = i
    if job.last_token_s > 0.0:  # it ended while the router took it back
        report(world, F_WITHDRAWN, i, r, now_s)
        return
    job.hands_over = engine.prefill_only
    job.best_effort = 1 if job.outcome == RELEGATED_OUT else 0
    insert_in_queue(world.jobs, engine, r, world.clock[0].by_deadline == 1)
    if engine.busy == 0 and now_s >= engine.ready_s:
        start_iteration(world, i, now_s)


@compiled
def take_back(world: World, i: int, r: int) -> None:
    """The router withdraws a request: its KV is thrown away, what it has emitted is kept."""
    engine, job = world.engines[i], world.jobs[r]
    if job.last_token_s > 0.0:
        return
    job.instance = NONE
    for k in range(engine.num_decodes):
        if world.slot[i, k] == r:
            _throw_out(world, i, k)
            return
    remove_from_queue(world.jobs, engine, r)
    engine.kv_tokens -= job.prefill_tokens - job.remaining_tokens
    job.remaining_tokens = job.prefill_tokens


@compiled
def await_room(world: World, i: int, r: int) -> None:
    """PD: a request's KV has arrived; it moves in when those before it have and there is room."""
    last, k = NONE, world.engines[i].arrived_head
    while k != NONE:
        last, k = k, world.jobs[k].next
    if last == NONE:
        world.engines[i].arrived_head = r
    else:
        world.jobs[last].next = r


@compiled
def take_arrived(world: World, i: int) -> int:
    """PD: take the first request that awaits room if there is room, also for the next iteration's tokens; else NONE."""
    engine = world.engines[i]
    r = engine.arrived_head
    if r == NONE:
        return NONE
    tokens = (engine.busy + 1) * engine.num_decodes + 1  # the running iteration's too
    if engine.kv_tokens > 0 and engine.kv_tokens + world.jobs[r].prefill_tokens + tokens > engine.kv_capacity_tokens:
        return NONE
    engine.arrived_head = world.jobs[r].next
    world.jobs[r].next = NONE
    return int(r)


@compiled
def join_batch(world: World, i: int, r: int) -> None:
    """PD: a request whose KV has moved in decodes from the next iteration on."""
    engine, job = world.engines[i], world.jobs[r]
    job.instance = i
    job.hands_over = 0
    engine.kv_tokens += job.prefill_tokens
    job.next = engine.join_head
    engine.join_head = r


@compiled
def start_iteration(world: World, i: int, now_s: float) -> None:
    """Begin the next iteration if there is anything to do, and schedule its end."""
    engine = world.engines[i]
    engine.num_joined = 0
    while engine.join_head != NONE and engine.num_decodes < engine.max_decodes:
        r = engine.join_head
        engine.num_joined += 1
        engine.join_head = world.jobs[r].next
        world.jobs[r].next = NONE
        _occupy_slot(world, i, r, engine.iteration)
    if world.clock[0].relegate == 1:
        _skip_hopeless(world, i, now_s)
    while engine.num_decodes > 0 and engine.kv_tokens + engine.num_decodes > engine.kv_capacity_tokens:
        _preempt_latest(world, i, now_s)
    if engine.num_decodes == 0 and engine.num_queued == 0:
        return
    plan_from_s = now_s if world.clock[0].by_deadline == 1 and engine.prefill_only == 0 else math.inf
    chunk, pairs = plan_chunk(world.truth, world.jobs, engine, engine.max_decodes, plan_from_s)
    if chunk == 0 and engine.num_decodes == 0:
        _restart_prompts(world, i, now_s)
        chunk, pairs = plan_chunk(world.truth, world.jobs, engine, engine.max_decodes, plan_from_s)
        if chunk == 0:  # PD: the KV of prompts under way to decode instances; its release begins the next iteration
            return
    engine.num_ending = _count_ending(world, i)
    context = pairs / chunk if chunk > 0 else 0.0
    duration_s = iteration_s(world.truth, engine.num_decodes, chunk, engine.decode_kv_tokens, context)
    duration_s *= engine.slowness * _noise(world)
    engine.busy = 1
    engine.busy_s += duration_s
    engine.kv_tokens += chunk
    _note_extent(world, engine.num_decodes, engine.decode_kv_tokens, chunk, context)
    world.clock[0].num_iterations += 1
    schedule(world, now_s + duration_s, ITERATION_END, i, NONE)


@compiled
def _note_extent(world: World, decodes: int, kv_tokens: int, chunk: int, context: float) -> None:
    clock = world.clock[0]
    clock.most_decodes = max(clock.most_decodes, decodes)
    clock.most_kv_tokens = max(clock.most_kv_tokens, kv_tokens)
    clock.most_chunk_tokens = max(clock.most_chunk_tokens, chunk)
    clock.most_context_tokens = max(clock.most_context_tokens, context)


@compiled
def end_iteration(world: World, i: int, now_s: float) -> None:
    """Hand out the iteration's tokens: check due times, finish requests, turn ended prompts into decodes."""
    engine = world.engines[i]
    engine.busy = 0
    engine.iteration += 1
    engine.decode_kv_tokens += engine.num_decodes
    engine.kv_tokens += engine.num_decodes
    report(world, F_ITERATION_END, i, NONE, now_s)
    if engine.num_joined > 0 and world.fleet.settings[0].first_from_decode == 1:
        _note_first_tokens(world, i, now_s)
    sweep_slots(world, i, now_s)
    r = engine.queue_head
    while engine.num_ending > 0 and r != NONE:
        following = world.jobs[r].next
        if world.jobs[r].remaining_tokens == 0:
            _end_prompt(world, i, r, now_s)
            engine.num_ending -= 1
        r = following


@compiled
def _note_first_tokens(world: World, i: int, now_s: float) -> None:
    """PD: requests that joined with this iteration get their first token from it."""
    for k in range(world.engines[i].num_decodes):
        job = world.jobs[world.slot[i, k]]
        if job.emitted_tokens == 0 and not job.first_token_s > 0.0:
            job.first_token_s = now_s


@compiled
def sweep_slots(world: World, i: int, now_s: float) -> None:
    """Count late tokens and finished requests of the batch, then deal with the few there are."""
    engine, iteration = world.engines[i], world.engines[i].iteration
    due_s, tpot_s, finish = world.slot_due_s[i], world.slot_tpot_s[i], world.slot_finish[i]
    num_late, num_finished = 0, 0
    for k in range(engine.num_decodes):  # two sums, so that this loop becomes vector code
        num_late += 1 if now_s > due_s[k] + iteration * tpot_s[k] else 0
        num_finished += 1 if finish[k] <= iteration else 0
    if num_late > 0:
        for k in range(engine.num_decodes):
            if now_s > due_s[k] + iteration * tpot_s[k]:
                world.jobs[world.slot[i, k]].late = 1
                due_s[k] = math.inf  # once is enough
    k = engine.num_decodes - 1
    while num_finished > 0:
        if finish[k] <= iteration:
            _finish(world, i, k, now_s)
            num_finished -= 1
        k -= 1


@compiled
def report(world: World, kind: int, i: int, r: int, now_s: float) -> None:
    """Send a fact to the router; it arrives after the telemetry's delay."""
    clock = world.clock[0]
    index = clock.fact_tail % world.fact.shape[0]
    clock.fact_tail += 1
    world.fact[index, 0] = kind
    world.fact[index, 1] = i
    world.fact[index, 2] = r
    world.fact_s[index, 0] = now_s + clock.delay_s
    world.fact_s[index, 1] = now_s


@compiled
def release_kv(world: World, i: int, r: int) -> None:
    """PD: the KV of a prefilled request has left its prefill engine."""
    world.engines[i].kv_tokens -= world.jobs[r].prefill_tokens


@compiled
def _occupy_slot(world: World, i: int, r: int, iteration: int) -> None:
    engine, job = world.engines[i], world.jobs[r]
    k = engine.num_decodes
    engine.num_decodes += 1
    engine.decode_kv_tokens += job.prefill_tokens
    # This request's token number e comes at the end of iteration + e - emitted.
    first = iteration - (job.emitted_tokens - 1)
    world.slot[i, k] = r
    world.slot_finish[i, k] = first + job.output_tokens - 1
    world.slot_due_s[i, k] = math.inf if job.late == 1 else job.first_due_s - first * job.tpot_s + LATE_S
    world.slot_tpot_s[i, k] = job.tpot_s


@compiled
def _end_prompt(world: World, i: int, r: int, now_s: float) -> None:
    """A prompt's last chunk ran: its first token (or, after a preemption, its next) is out.

    PD: unless it is the decode side that gives that (vLLM computes it there again, and throws this one away).
    """
    engine, job = world.engines[i], world.jobs[r]
    remove_from_queue(world.jobs, engine, r)
    if job.hands_over == 1 and world.fleet.settings[0].first_from_decode == 1:
        report(world, F_FIRST_TOKEN, i, r, now_s)
        report(world, F_PREFILLED, i, r, now_s)
        return
    if job.emitted_tokens == 0:
        job.first_token_s = now_s
    if now_s > job.first_due_s + job.emitted_tokens * job.tpot_s + LATE_S:
        job.late = 1
    job.emitted_tokens += 1
    report(world, F_FIRST_TOKEN, i, r, now_s)
    if job.emitted_tokens >= job.output_tokens:
        engine.kv_tokens -= job.prefill_tokens
        _close(world, i, r, now_s)
    elif job.hands_over == 1:
        report(world, F_PREFILLED, i, r, now_s)
    else:
        _occupy_slot(world, i, r, engine.iteration)


@compiled
def _finish(world: World, i: int, k: int, now_s: float) -> None:
    engine, r = world.engines[i], world.slot[i, k]
    job = world.jobs[r]
    held = job.prefill_tokens + job.output_tokens - job.emitted_tokens
    engine.kv_tokens -= held
    engine.decode_kv_tokens -= held
    job.emitted_tokens = job.output_tokens
    _vacate_slot(world, i, k)
    _close(world, i, r, now_s)


@compiled
def _close(world: World, i: int, r: int, now_s: float) -> None:
    job = world.jobs[r]
    job.last_token_s = now_s
    if job.outcome != RELEGATED_OUT:
        job.outcome = MISSED if job.late == 1 else ATTAINED
    report(world, F_FINISHED, i, r, now_s)


@compiled
def _vacate_slot(world: World, i: int, k: int) -> None:
    last = world.engines[i].num_decodes - 1
    world.slot[i, k] = world.slot[i, last]
    world.slot_finish[i, k] = world.slot_finish[i, last]
    world.slot_due_s[i, k] = world.slot_due_s[i, last]
    world.slot_tpot_s[i, k] = world.slot_tpot_s[i, last]
    world.engines[i].num_decodes = last


@compiled
def _throw_out(world: World, i: int, k: int) -> None:
    """Empty a slot whose request has to be prefilled again, with what it has emitted."""
    engine, job = world.engines[i], world.jobs[world.slot[i, k]]
    emitted = job.output_tokens - int(world.slot_finish[i, k] - engine.iteration)
    held = job.prefill_tokens + emitted - job.emitted_tokens
    engine.kv_tokens -= held
    engine.decode_kv_tokens -= held
    _vacate_slot(world, i, k)
    job.emitted_tokens = emitted
    job.prefill_tokens = job.input_tokens + emitted
    job.remaining_tokens = job.prefill_tokens


@compiled
def _preempt_latest(world: World, i: int, now_s: float) -> None:
    """Throw away the KV of the decode that arrived last; it is prefilled again, with what it has emitted."""
    engine, latest = world.engines[i], 0
    for k in range(engine.num_decodes):
        if world.slot[i, k] > world.slot[i, latest]:  # requests are numbered by arrival
            latest = k
    r = world.slot[i, latest]
    _throw_out(world, i, latest)
    world.jobs[r].num_preemptions += 1
    insert_at_head(world.jobs, engine, r)
    world.clock[0].num_preemptions += 1
    report(world, F_PREEMPTED, i, r, now_s)


@compiled
def _skip_hopeless(world: World, i: int, now_s: float) -> None:
    """Relegation at the engine: take queued prompts that can no longer meet their TTFT from the queue's head."""
    engine = world.engines[i]
    r = engine.queue_head
    while r != NONE:
        job = world.jobs[r]
        if job.emitted_tokens > 0 or job.remaining_tokens < job.prefill_tokens or job.outcome == RELEGATED_OUT:
            return
        if now_s + fastest_prefill_s(world.truth, job.prefill_tokens) <= job.first_due_s:
            return
        remove_from_queue(world.jobs, engine, r)
        job.outcome = RELEGATED_OUT
        report(world, F_WITHDRAWN, i, r, now_s)
        r = engine.queue_head


@compiled
def _restart_prompts(world: World, i: int, now_s: float) -> None:
    """No decode and no room: partly prefilled prompts hold all KV. Give back all but the first one's."""
    engine = world.engines[i]
    r = world.jobs[engine.queue_head].next
    while r != NONE:
        job = world.jobs[r]
        engine.kv_tokens -= job.prefill_tokens - job.remaining_tokens
        job.remaining_tokens = job.prefill_tokens
        r = job.next
    report(world, F_RESTARTED, i, NONE, now_s)


@compiled
def _count_ending(world: World, i: int) -> int:
    """Count the prompts that the plan just made brings to their end: they lead the queue."""
    count, r = 0, world.engines[i].queue_head
    while r != NONE and world.jobs[r].remaining_tokens == 0:
        count += 1
        r = world.jobs[r].next
    return count


@compiled
def _noise(world: World) -> float:
    """Return a factor of mean 1 around the profile's time (log-normal), or 1."""
    ratio = world.clock[0].noise_ratio
    if ratio == 0.0:
        return 1.0
    first, second = _uniform(world), _uniform(world)
    normal = math.sqrt(-2.0 * math.log(1.0 - first)) * math.cos(2.0 * math.pi * second)
    return math.exp(ratio * normal - 0.5 * ratio * ratio)


@compiled
def _uniform(world: World) -> float:
    world.clock[0].random_state = next_state(world.clock[0].random_state)
    return uniform(world.clock[0].random_state)
