"""The simulator's main loop: the next event, the next fact, or the next arrival, whichever is first.

At an iteration's end: tokens are handed out, the engine begins its next iteration, and what its streams show
goes to the router, which may place pending requests. So a request placed now joins the iteration after, as with
a real engine.
"""

from __future__ import annotations

import math

from polyslo.compiled import compiled
from polyslo.core.admission import transfer_s
from polyslo.core.belief import (
    observe_first_token,
    observe_iteration_end,
    observe_preempted,
    observe_restarted,
    observe_transfer_ended,
    withdraw,
)
from polyslo.core.ladder import settle_hopeless
from polyslo.core.pending import head
from polyslo.core.profile import iteration_s
from polyslo.core.scaling import owned_instance_s, standby_s
from polyslo.core.state import (
    DISPATCH,
    DONE,
    NONE,
    REFUSE,
    RELEGATE,
    RELEGATED,
    RETIER,
    START,
    TRANSFER,
    WITHDRAW,
    prefill_group,
)
from polyslo.policies.decide import (
    on_arrival,
    on_finished,
    on_iteration_settled,
    on_prefilled,
    on_progress,
    on_withdrawn,
)
from polyslo.policies.table import EXTERNAL
from polyslo.sim.engine import (
    await_room,
    end_iteration,
    join_batch,
    release_kv,
    report,
    start_iteration,
    submit,
    take_arrived,
    take_back,
)
from polyslo.sim.events import pop_event, schedule
from polyslo.sim.world import (
    F_FINISHED,
    F_FIRST_TOKEN,
    F_ITERATION_END,
    F_PREEMPTED,
    F_PREFILLED,
    F_RESTARTED,
    F_SETTLED,
    F_WITHDRAWN,
    ITERATION_END,
    READY,
    REFUSED_OUT,
    RELEGATED_OUT,
    TRANSFER_END,
    World,
)

FINISHED, PAUSED = -1, -2  # what `advance` returns when all is done, and when `pause_s` is reached


@compiled
def advance(world: World) -> int:
    """Run until all is done (FINISHED), or an external policy must place a request (its index).

    Also stops before the first thing that happens after `clock.pause_s` (PAUSED); call again to go on.
    """
    clock, fleet = world.clock[0], world.fleet
    _carry_out(world)  # what an external policy decided since
    while True:
        arrival_s = world.arrivals_s[clock.cursor] if clock.cursor < world.arrivals_s.shape[0] else math.inf
        event_s = world.event_s[0] if clock.num_events > 0 else math.inf
        fact_s = math.inf
        if clock.fact_head < clock.fact_tail:
            fact_s = world.fact_s[clock.fact_head % world.fact.shape[0], 0]
        next_s = min(arrival_s, event_s, fact_s)
        if next_s > clock.pause_s:
            return PAUSED
        if next_s == math.inf:
            if not _settle_leftovers(world):
                return FINISHED
            continue
        _watch(world, next_s)
        clock.now_s = next_s
        if fact_s <= event_s and fact_s <= arrival_s:
            _apply_fact(world)
        elif event_s <= arrival_s:
            _handle_event(world)
        else:
            r = clock.cursor
            clock.cursor += 1
            on_arrival(clock.policy, fleet, r, next_s)
            if clock.policy == EXTERNAL:
                return int(r)
        _carry_out(world)


@compiled
def _settle_leftovers(world: World) -> bool:
    """Nothing happens any more but requests still pend: let their deadlines pass; True when that changed it."""
    clock, fleet, acted = world.clock[0], world.fleet, False
    for tier in range(fleet.tpots_s.shape[0]):
        r = head(fleet, tier)
        if r != NONE:
            clock.now_s = max(clock.now_s, fleet.requests[r].first_due_s)
            before = fleet.pending_size[tier]
            settle_hopeless(fleet, tier, clock.now_s)
            acted = acted or fleet.pending_size[tier] < before
    _carry_out(world)
    return acted


@compiled
def _handle_event(world: World) -> None:
    now_s, kind, i, r = pop_event(world)
    engine = world.engines[i]
    if kind == ITERATION_END:
        end_iteration(world, i, now_s)
        _let_in(world, i, now_s)
        start_iteration(world, i, now_s)
        report(world, F_SETTLED, i, NONE, now_s)
    elif kind == TRANSFER_END:
        if r != NONE:
            await_room(world, i, r)
        _let_in(world, i, now_s)
        if engine.busy == 0 and now_s >= engine.ready_s:
            start_iteration(world, i, now_s)
    elif now_s < engine.ready_s:  # READY, but it was given back and claimed anew since
        schedule(world, engine.ready_s, READY, i, NONE)
    else:
        engine.starting = 0
        if engine.busy == 0:
            start_iteration(world, i, now_s)
            report(world, F_SETTLED, i, NONE, now_s)


@compiled
def _let_in(world: World, i: int, now_s: float) -> None:
    """PD: KV that has arrived moves in as far as there is room, and is free where it came from."""
    r = take_arrived(world, i)
    while r != NONE:
        source = world.jobs[r].instance
        release_kv(world, source, r)
        join_batch(world, i, r)
        observe_transfer_ended(world.fleet, r, i, now_s)
        if world.engines[source].busy == 0:
            start_iteration(world, source, now_s)
        if world.engines[source].arrived_head != NONE:  # it is a decode instance now, and has more room
            schedule(world, now_s, TRANSFER_END, source, NONE)
        on_progress(world.clock[0].policy, world.fleet, source, now_s)
        r = take_arrived(world, i)


@compiled
def _apply_fact(world: World) -> None:
    """The router sees the oldest fact under way."""
    clock, fleet = world.clock[0], world.fleet
    index = clock.fact_head % world.fact.shape[0]
    clock.fact_head += 1
    kind, i, r = world.fact[index, 0], world.fact[index, 1], world.fact[index, 2]
    if r != NONE and fleet.requests[r].instance != i:
        if kind == F_FINISHED and fleet.requests[r].stage == RELEGATED:
            fleet.requests[r].stage = DONE  # taken back while its last token was under way
        return
    happened_s = world.fact_s[index, 1]
    if kind == F_ITERATION_END:
        observe_iteration_end(fleet, i)
    elif kind == F_FIRST_TOKEN:
        observe_first_token(fleet, i, r)
    elif kind == F_PREFILLED:
        on_prefilled(clock.policy, fleet, r, clock.now_s)
    elif kind == F_FINISHED:
        on_finished(clock.policy, fleet, i, r, world.jobs[r].output_tokens, clock.now_s)
    elif kind == F_PREEMPTED:
        observe_preempted(fleet, i, r)
    elif kind == F_WITHDRAWN and world.jobs[r].last_token_s > 0.0:
        withdraw(fleet, i, r)
        fleet.requests[r].stage = DONE
    elif kind == F_WITHDRAWN:
        on_withdrawn(clock.policy, fleet, i, r, clock.now_s)
    elif kind == F_RESTARTED:
        observe_restarted(fleet, i)
    elif kind == F_SETTLED:
        on_iteration_settled(clock.policy, fleet, i, happened_s, clock.now_s)


@compiled
def _carry_out(world: World) -> None:
    """Do what the policy decided."""
    fleet, now_s = world.fleet, world.clock[0].now_s
    for a in range(fleet.num_actions[0]):
        kind, r, i = fleet.actions[a, 0], fleet.actions[a, 1], fleet.actions[a, 2]
        if kind == DISPATCH:
            submit(world, i, r, now_s)
        elif kind == TRANSFER:
            took_s = transfer_s(fleet, world.jobs[r].prefill_tokens)
            schedule(world, now_s + took_s, TRANSFER_END, i, r)
        elif kind == RETIER:
            world.engines[i].budget_s = fleet.instances[i].budget_s
            world.engines[i].ready_s = fleet.instances[i].ready_s
            world.engines[i].prefill_only = 1 if fleet.instances[i].group == prefill_group(fleet) else 0
        elif kind == START and world.engines[i].starting == 0:
            world.engines[i].starting = 1
            schedule(world, fleet.instances[i].ready_s, READY, i, NONE)
        elif kind == WITHDRAW:
            take_back(world, i, r)
        elif kind == RELEGATE:
            world.jobs[r].outcome = RELEGATED_OUT
        elif kind == REFUSE:
            world.jobs[r].outcome = REFUSED_OUT
    fleet.num_actions[0] = 0


@compiled
def _watch(world: World, next_s: float) -> None:
    """Take the samples and the window's accounts that are due before `next_s`."""
    clock, fleet = world.clock[0], world.fleet
    while clock.next_sample_s <= next_s and clock.num_samples < world.sample_s.shape[0]:
        _sample(world, clock.next_sample_s)
        clock.next_sample_s += clock.sample_every_s
    for column, at_s in ((0, clock.window_start_s), (1, clock.window_end_s)):
        if world.owned_at_s[0, column] < 0.0 and next_s >= at_s:
            for group in range(prefill_group(fleet) + 1):
                world.owned_at_s[group, column] = owned_instance_s(fleet, group, at_s)
            world.owned_at_s[-1, column] = standby_s(fleet, at_s)


@compiled
def _sample(world: World, at_s: float) -> None:
    fleet, m = world.fleet, world.clock[0].num_samples
    world.clock[0].num_samples += 1
    world.sample_s[m] = at_s
    for g in range(fleet.group_size.shape[0]):
        world.sample_groups[m, g] = fleet.group_size[g]
    for tier in range(fleet.tpots_s.shape[0]):
        world.sample_pending[m, tier] = fleet.pending_size[tier]
    for i in range(fleet.instances.shape[0]):
        instance = fleet.instances[i]
        world.sample_group[m, i] = instance.group
        if instance.group < prefill_group(fleet):
            step_s = iteration_s(fleet.profile, instance.num_decodes, instance.chunk, instance.decode_kv_tokens, 0.0)
            world.sample_load[m, i] = step_s / fleet.tpots_s[instance.group] if instance.busy == 1 else 0.0
