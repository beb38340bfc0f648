"""Pending queues: one heap a tier, earliest first-token deadline on top; one more for best-effort work.

A request that no instance can take now waits here (PolyServe, figure 5); the wait counts against its TTFT.
"""

from __future__ import annotations

from polyslo.compiled import compiled
from polyslo.core.state import NONE, PENDING, Fleet


@compiled
def push(fleet: Fleet, queue: int, r: int) -> None:
    """Add a request to a queue. The caller makes sure that the queue has room."""
    heap, index = fleet.pending[queue], fleet.pending_size[queue]
    fleet.pending_size[queue] = index + 1
    due_s = fleet.requests[r].first_due_s
    while index > 0:
        parent = (index - 1) // 2
        if fleet.requests[heap[parent]].first_due_s <= due_s:
            break
        heap[index] = heap[parent]
        index = parent
    heap[index] = r
    if queue < fleet.tpots_s.shape[0]:
        fleet.requests[r].stage = PENDING


@compiled
def head(fleet: Fleet, queue: int) -> int:
    """Return the request with the earliest deadline, or NONE."""
    return fleet.pending[queue, 0] if fleet.pending_size[queue] > 0 else NONE


@compiled
def pop(fleet: Fleet, queue: int) -> int:
    """Remove the request with the earliest deadline and return it."""
    return _take(fleet, queue, 0)


@compiled
def num_pending(fleet: Fleet) -> int:
    """Return how many requests of all tiers pend."""
    count = 0
    for tier in range(fleet.tpots_s.shape[0]):
        count += fleet.pending_size[tier]
    return count


@compiled
def discard(fleet: Fleet, queue: int, r: int) -> None:
    """Remove a request wherever in the queue it waits; one that is not there is left alone."""
    for index in range(fleet.pending_size[queue]):
        if fleet.pending[queue, index] == r:
            _take(fleet, queue, index)
            return


@compiled
def _take(fleet: Fleet, queue: int, index: int) -> int:
    heap, size = fleet.pending[queue], fleet.pending_size[queue] - 1
    fleet.pending_size[queue] = size
    taken, moved = heap[index], heap[size]
    due_s = fleet.requests[moved].first_due_s
    while index > 0 and fleet.requests[heap[(index - 1) // 2]].first_due_s > due_s:
        heap[index] = heap[(index - 1) // 2]
        index = (index - 1) // 2
    while True:
        child = 2 * index + 1
        if child >= size:
            break
        if child + 1 < size and fleet.requests[heap[child + 1]].first_due_s < fleet.requests[heap[child]].first_due_s:
            child += 1
        if fleet.requests[heap[child]].first_due_s >= due_s:
            break
        heap[index] = heap[child]
        index = child
    heap[index] = moved
    return taken
