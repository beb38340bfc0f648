"""The simulator's engine on its own: a `World` of one instance whose job numbers are used again.

The rules of batching, chunking, memory and preemption are those of `polyslo.sim.engine`; nothing here decides any
of them. In a simulation every request has its number from the start. Here jobs come and go without end: numbers
are given out by arrival, as the simulator's rule of preemption wants, and when they run out the living jobs move
to the front in their order (`renumber`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from polyslo.compiled import compiled
from polyslo.core.profile import Profile
from polyslo.core.state import NONE, new_fleet
from polyslo.sim.engine import (
    await_room,
    end_iteration,
    join_batch,
    start_iteration,
    submit,
    take_arrived,
    take_back,
)
from polyslo.sim.events import pop_event
from polyslo.sim.world import CLOCK, F_FIRST_TOKEN, ITERATION_END, JOB, World, new_engines

NO_SLO_S = 1e9  # due time and TPOT of a request without an SLO; infinities would make NaN of each other
WHOLE, PREFILL_PART, DECODE_PART = range(3)  # what of a request happens on this engine
FIRST, LAST, CODE_BITS = 1, 2, 2  # what a token is to its request, in the lowest bits of `told`


def new_world(
    profile: Profile,
    *,
    num_jobs: int,
    max_decodes: int,
    chunk_limit: int,
    dynamic_chunking: bool,
    noise_ratio: float,
    seed: int,
) -> World:
    """Allocate an idle engine that holds what the profile says, with numbers for `num_jobs` jobs."""
    clock = np.zeros(1, dtype=CLOCK)
    clock["pause_s"] = clock["next_sample_s"] = np.inf
    clock["noise_ratio"] = noise_ratio
    clock["random_state"] = 7919 * (seed + 1)
    clock["by_deadline"] = dynamic_chunking
    num_facts = 4 * num_jobs + 8  # of one iteration, after which they are read
    fleet = new_fleet(profile, num_instances=1, tpots_s=[1.0], num_requests=1, max_residents=1)  # nobody's belief
    fleet.settings["first_from_decode"] = 1  # as vLLM's
    return World(
        fleet=fleet,
        truth=profile,
        clock=clock,
        engines=new_engines(1, profile, max_decodes, chunk_limit),
        jobs=np.zeros(num_jobs, dtype=JOB),
        arrivals_s=np.zeros(0),
        slot=np.zeros((1, max_decodes), dtype=np.int64),
        slot_finish=np.zeros((1, max_decodes), dtype=np.int64),
        slot_due_s=np.zeros((1, max_decodes)),
        slot_tpot_s=np.zeros((1, max_decodes)),
        event_s=np.zeros(8),
        event_sequence=np.zeros(8, dtype=np.int64),
        event=np.zeros((8, 3), dtype=np.int64),
        fact_s=np.zeros((num_facts, 2)),
        fact=np.zeros((num_facts, 3), dtype=np.int64),
        owned_at_s=np.zeros((3, 2)),
        sample_s=np.zeros(0),
        sample_groups=np.zeros((0, 3), dtype=np.int64),
        sample_pending=np.zeros((0, 1), dtype=np.int64),
        sample_group=np.zeros((0, 1), dtype=np.int8),
        sample_load=np.zeros((0, 1), dtype=np.float32),
    )


@compiled
def enter(
    world: World,
    r: int,
    input_tokens: int,
    output_tokens: int,
    first_due_s: float,
    tpot_s: float,
    pace_s: float,
    part: int,
    now_s: float,
) -> float:
    """A request arrives under the number `r`; return when the next event is due (inf: never).

    `pace_s` is the longest iteration that the router has told, as in `turn`. Of a request that has only its
    `PREFILL_PART` here one token is told, and its KV stays until `let_go`; one that has its `DECODE_PART` here comes
    with its KV, and decodes from the next iteration on, once there is room.
    """
    _fill(world, r, input_tokens, output_tokens, first_due_s, tpot_s)
    world.engines[0].prefill_only = 1 if part == PREFILL_PART else 0
    if world.engines[0].busy == 0:
        _set_budget(world, tpot_s, pace_s)
    if part == DECODE_PART:
        world.jobs[r].remaining_tokens = 0
        await_room(world, 0, r)
        _let_in(world)
        if world.engines[0].busy == 0 and now_s >= world.engines[0].ready_s:
            start_iteration(world, 0, now_s)
    else:
        submit(world, 0, r, now_s)
    _forget_facts(world)
    return next_event_s(world)


@compiled
def leave(world: World, r: int) -> None:
    """Take a request out, wherever it is, and throw its KV away."""
    engine, jobs = world.engines[0], world.jobs
    if _is_linked(jobs, engine.arrived_head, r):
        engine.arrived_head = _without(jobs, engine.arrived_head, r)
    elif _is_linked(jobs, engine.join_head, r):
        engine.join_head = _without(jobs, engine.join_head, r)
        engine.kv_tokens -= jobs[r].prefill_tokens
    else:
        take_back(world, 0, r)


@compiled
def _is_linked(jobs: Any, first: int, r: int) -> bool:
    """Tell whether a request is in the list that begins with `first`."""
    while first != NONE and first != r:
        first = jobs[first].next
    return first == r


@compiled
def _without(jobs: Any, first: int, r: int) -> int:
    """Unlink a request from the list that begins with `first`; return what it begins with then."""
    following = jobs[r].next
    jobs[r].next = NONE
    if first == r:
        return int(following)
    before = first
    while jobs[before].next != r:
        before = jobs[before].next
    jobs[before].next = following
    return first


@compiled
def _let_in(world: World) -> None:
    """KV that has arrived moves in as far as there is room."""
    r = take_arrived(world, 0)
    while r != NONE:
        join_batch(world, 0, r)
        r = take_arrived(world, 0)


@compiled
def let_go(world: World, tokens: int, pace_s: float, now_s: float) -> float:
    """KV that was kept for another engine is free again; return when the next event is due."""
    world.engines[0].kv_tokens -= tokens
    _let_in(world)
    if world.engines[0].busy == 0 and now_s >= world.engines[0].ready_s:
        _set_budget(world, NO_SLO_S, pace_s)
        start_iteration(world, 0, now_s)
        _forget_facts(world)
    return next_event_s(world)


@compiled
def _fill(world: World, r: int, input_tokens: int, output_tokens: int, first_due_s: float, tpot_s: float) -> None:
    job = world.jobs[r]
    job.input_tokens = job.prefill_tokens = job.remaining_tokens = input_tokens
    job.output_tokens = output_tokens
    job.first_due_s = first_due_s
    job.tpot_s = tpot_s
    job.first_token_s = job.last_token_s = math.nan
    job.emitted_tokens = job.outcome = job.late = job.num_preemptions = 0
    job.next = job.previous = NONE


@compiled
def turn(world: World, told: npt.NDArray[np.int64], pace_s: float, at_s: float) -> tuple[int, float]:
    """Take the next event as happening at `at_s`: end the iteration and begin another, or begin after a stall.

    `pace_s` is the longest iteration that the router has told for this engine last (`NO_SLO_S`: it tells none).

    Writes into `told` who has got a token, as `number << CODE_BITS | FIRST | LAST`. Returns how many have, and
    when the next event is due.
    """
    engine, clock, count = world.engines[0], world.clock[0], 0
    _, kind, _, _ = pop_event(world)
    if kind == ITERATION_END:
        count = engine.num_decodes
        told[:count] = world.slot[0, :count]
        end_iteration(world, 0, at_s)
        while clock.fact_head < clock.fact_tail:
            index = clock.fact_head % world.fact.shape[0]
            clock.fact_head += 1
            if world.fact[index, 0] == F_FIRST_TOKEN:
                told[count] = world.fact[index, 2]
                count += 1
        for k in range(count):
            job = world.jobs[told[k]]
            is_over = job.last_token_s > 0.0 or job.hands_over == 1
            first = FIRST if job.first_token_s == at_s or job.hands_over == 1 else 0
            told[k] = told[k] << CODE_BITS | first | (LAST if is_over else 0)
        _let_in(world)
    if engine.busy == 0:
        _set_budget(world, NO_SLO_S, pace_s)
        start_iteration(world, 0, at_s)
    _forget_facts(world)
    return count, next_event_s(world)


@compiled
def next_event_s(world: World) -> float:
    """Return when the next event is due; inf while the engine has nothing to do."""
    return float(world.event_s[0]) if world.clock[0].num_events > 0 else math.inf


@compiled
def _set_budget(world: World, tpot_s: float, pace_s: float) -> None:
    """With dynamic chunking: no iteration takes longer than the router's pace, which knows the engine's tier.

    Without one: than the tightest TPOT of the residents, or `tpot_s`.
    """
    engine = world.engines[0]
    if world.clock[0].by_deadline == 0:
        return
    if pace_s < NO_SLO_S:
        engine.budget_s = pace_s
        return
    for k in range(engine.num_decodes):
        tpot_s = min(tpot_s, world.jobs[world.slot[0, k]].tpot_s)
    r = engine.queue_head
    while r != NONE:
        tpot_s = min(tpot_s, world.jobs[r].tpot_s)
        r = world.jobs[r].next
    engine.budget_s = math.inf if tpot_s >= NO_SLO_S else tpot_s


@compiled
def _forget_facts(world: World) -> None:
    """There is no router behind this engine: what else happened, its counters tell."""
    world.clock[0].fact_head = world.clock[0].fact_tail


def renumber(world: World, living: Sequence[int]) -> None:
    """Give the jobs `living`, in rising order, the numbers from 0 on; all others are free."""
    count = len(living)
    new_number = np.full(len(world.jobs) + 1, NONE, dtype=np.int64)  # the last entry is where NONE leads
    new_number[np.asarray(living, dtype=np.int64)] = np.arange(count)
    jobs, engines = world.jobs, world.engines
    jobs[:count] = jobs[np.asarray(living, dtype=np.int64)]
    jobs[count:] = np.zeros(1, dtype=JOB)
    for name in ("next", "previous"):
        jobs[name][:count] = new_number[jobs[name][:count]]
    for name in ("queue_head", "queue_tail", "arrived_head", "join_head"):
        engines[name] = new_number[engines[name]]
    num_decodes = int(engines["num_decodes"][0])
    world.slot[0, :num_decodes] = new_number[world.slot[0, :num_decodes]]
