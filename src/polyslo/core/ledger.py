"""What each instance was promised, iteration by iteration: who ends when, and the KV it will hold.

A resident that decodes holds `base + j` KV tokens at iteration j and leaves after iteration `finish`; both
numbers stay constant while the expectation holds, so a batch is simulated forward by walking the residents in
order of `finish`. Requests still in the prefill queue are residents too, from the iteration of their first token
on (before it, `base + j` understates by less than the prompt tokens not yet prefilled).
"""

from __future__ import annotations

from polyslo.compiled import compiled
from polyslo.core.state import NONE, Fleet


@compiled
def add_resident(fleet: Fleet, i: int, r: int, start_iteration: int) -> None:
    """Enter a request whose first token comes at the end of iteration `start_iteration`.

    Full: not entered. Only KV that was sent to a decode instance (PD) without asking it gets there, and while the
    ledger is full the instance refuses everybody.
    """
    request, count = fleet.requests[r], fleet.instances[i].num_residents
    finish = start_iteration + max(1, request.expected_tokens - request.emitted_tokens - 1)
    request.start_iteration = start_iteration
    request.finish_iteration = finish
    if count == fleet.resident.shape[1]:
        return
    index = count
    while index > 0 and fleet.resident_finish[i, index - 1] > finish:
        fleet.resident_finish[i, index] = fleet.resident_finish[i, index - 1]
        fleet.resident_base[i, index] = fleet.resident_base[i, index - 1]
        fleet.resident[i, index] = fleet.resident[i, index - 1]
        index -= 1
    fleet.resident_finish[i, index] = finish
    fleet.resident_base[i, index] = request.prefill_tokens - start_iteration
    fleet.resident[i, index] = r
    fleet.instances[i].num_residents = count + 1


@compiled
def remove_resident(fleet: Fleet, i: int, r: int) -> None:
    """Strike a request out; one that is not there is left alone."""
    count, index = fleet.instances[i].num_residents, 0
    while index < count and fleet.resident[i, index] != r:
        index += 1
    if index == count:
        return
    for k in range(index, count - 1):
        fleet.resident_finish[i, k] = fleet.resident_finish[i, k + 1]
        fleet.resident_base[i, k] = fleet.resident_base[i, k + 1]
        fleet.resident[i, k] = fleet.resident[i, k + 1]
    fleet.instances[i].num_residents = count - 1


@compiled
def overdue_resident(fleet: Fleet, i: int) -> int:
    """Return a resident that has outlived its expected end, or NONE."""
    if fleet.instances[i].num_residents == 0:
        return NONE
    if fleet.resident_finish[i, 0] > fleet.instances[i].iteration:
        return NONE
    return fleet.resident[i, 0]


@compiled
def peak(fleet: Fleet, i: int, finish: int, base: int) -> tuple[int, int]:
    """Return the largest KV tokens that the instance will hold with one more resident, and the residents then.

    The newcomer ends at `finish` and holds `base + j`. KV rises between departures, so the peak is at one of
    them: walk from the last departure back.
    """
    index = fleet.instances[i].num_residents - 1
    total, count, most, at_most, entered = 0, 0, 0, 0, False
    while index >= 0 or not entered:
        if not entered and (index < 0 or fleet.resident_finish[i, index] <= finish):
            end, added = finish, base
            entered = True
        else:
            end, added = fleet.resident_finish[i, index], fleet.resident_base[i, index]
            index -= 1
        total += added
        count += 1
        held = total + count * end
        if held > most:
            most, at_most = held, count
    return most, at_most
