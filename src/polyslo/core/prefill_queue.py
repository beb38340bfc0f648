"""An instance's prefill queue: prompts linked through their own records, first to be prefilled first.

Belief and engine keep the same queue, each over its own records: `requests` has `previous`, `next` and
`first_due_s` and `best_effort`, `instance` has `queue_head`, `queue_tail` and `num_queued`.
"""

from __future__ import annotations

from typing import Any

from polyslo.compiled import compiled
from polyslo.core.state import NONE


@compiled
def insert_in_queue(requests: Any, instance: Any, r: int, by_deadline: bool) -> None:
    """Link a request into an instance's prefill queue: by deadline, best-effort ones last, or at the end."""
    after = instance.queue_tail
    if by_deadline:
        while after != NONE and _comes_before(requests[r], requests[after]):
            after = requests[after].previous
    _link_behind(requests, instance, r, after)


@compiled
def insert_at_head(requests: Any, instance: Any, r: int) -> None:
    """Link a request in front of an instance's prefill queue."""
    _link_behind(requests, instance, r, NONE)


@compiled
def remove_from_queue(requests: Any, instance: Any, r: int) -> None:
    """Unlink a request from an instance's prefill queue."""
    previous, following = requests[r].previous, requests[r].next
    if previous == NONE:
        instance.queue_head = following
    else:
        requests[previous].next = following
    if following == NONE:
        instance.queue_tail = previous
    else:
        requests[following].previous = previous
    requests[r].previous = NONE
    requests[r].next = NONE
    instance.num_queued -= 1


@compiled
def _comes_before(request: Any, other: Any) -> bool:
    if request.best_effort != other.best_effort:
        return bool(request.best_effort < other.best_effort)
    return bool(request.first_due_s < other.first_due_s)


@compiled
def _link_behind(requests: Any, instance: Any, r: int, after: int) -> None:
    before = instance.queue_head if after == NONE else requests[after].next
    requests[r].previous = after
    requests[r].next = before
    if after == NONE:
        instance.queue_head = r
    else:
        requests[after].next = r
    if before == NONE:
        instance.queue_tail = r
    else:
        requests[before].previous = r
    instance.num_queued += 1
