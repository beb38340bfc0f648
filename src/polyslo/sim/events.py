"""One heap of events with key (time, kind, sequence), and the ring of facts on their way to the router."""

from __future__ import annotations

from polyslo.compiled import compiled
from polyslo.sim.world import World


@compiled
def schedule(world: World, at_s: float, kind: int, i: int, r: int) -> None:
    """Add an event."""
    clock = world.clock[0]
    index = clock.num_events
    clock.num_events += 1
    clock.sequence += 1
    while index > 0:
        parent = (index - 1) // 2
        if not _before(world, at_s, kind, clock.sequence, parent):
            break
        _copy(world, index, parent)
        index = parent
    world.event_s[index] = at_s
    world.event_sequence[index] = clock.sequence
    world.event[index, 0] = kind
    world.event[index, 1] = i
    world.event[index, 2] = r


@compiled
def pop_event(world: World) -> tuple[float, int, int, int]:
    """Remove the earliest event; return (time, kind, instance, request)."""
    at_s, kind = world.event_s[0], world.event[0, 0]
    i, r = world.event[0, 1], world.event[0, 2]
    clock = world.clock[0]
    clock.num_events -= 1
    size = clock.num_events
    if size > 0:
        last_s, last_kind, last_sequence = world.event_s[size], world.event[size, 0], world.event_sequence[size]
        last_i, last_r = world.event[size, 1], world.event[size, 2]
        index = 0
        while True:
            child = 2 * index + 1
            if child >= size:
                break
            if child + 1 < size and _before(
                world, world.event_s[child + 1], world.event[child + 1, 0], world.event_sequence[child + 1], child
            ):
                child += 1
            if _before(world, last_s, last_kind, last_sequence, child):
                break
            _copy(world, index, child)
            index = child
        world.event_s[index] = last_s
        world.event_sequence[index] = last_sequence
        world.event[index, 0] = last_kind
        world.event[index, 1] = last_i
        world.event[index, 2] = last_r
    return at_s, kind, i, r


@compiled
def _before(world: World, at_s: float, kind: int, sequence: int, other: int) -> bool:
    if at_s != world.event_s[other]:
        return bool(at_s < world.event_s[other])
    if kind != world.event[other, 0]:
        return bool(kind < world.event[other, 0])
    return bool(sequence < world.event_sequence[other])


@compiled
def _copy(world: World, to: int, source: int) -> None:
    world.event_s[to] = world.event_s[source]
    world.event_sequence[to] = world.event_sequence[source]
    world.event[to, 0] = world.event[source, 0]
    world.event[to, 1] = world.event[source, 1]
    world.event[to, 2] = world.event[source, 2]
