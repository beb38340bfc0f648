"""What each instance was promised, iteration by iteration: who ends when, and the KV it will hold.

A resident that decodes holds `base + j` KV tokens at iteration j and leaves after iteration `finish`; both
numbers stay constant while the expectation holds, so a batch is simulated forward by walking the residents in
order of `finish`. Requests still in the prefill queue are residents too, from the iteration of their first token
on (before it, `base + j` understates by less than the prompt tokens not yet prefilled).
"""

from __future__ import annotations

from polyslo.compiled import compiled
from polyslo.core.state import NONE, Fleet
from polyslo.native import move_entries

LEAST = -(1 << 62)  # below any sum of tokens


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
    index = _after(fleet, i, finish)
    for table in (fleet.resident_finish, fleet.resident_base, fleet.resident):
        move_entries(table, i, index, index + 1, count - index)
    fleet.resident_finish[i, index] = finish
    fleet.resident_base[i, index] = request.prefill_tokens - start_iteration
    fleet.resident[i, index] = r
    fleet.instances[i].num_residents = count + 1
    fleet.is_foreseen[i] = 0


@compiled
def remove_resident(fleet: Fleet, i: int, r: int) -> None:
    """Strike a request out; one that is not there is left alone."""
    count, finish = fleet.instances[i].num_residents, fleet.requests[r].finish_iteration
    index = _after(fleet, i, finish) - 1
    while index >= 0 and fleet.resident_finish[i, index] == finish and fleet.resident[i, index] != r:
        index -= 1
    if index < 0 or fleet.resident[i, index] != r:
        return
    for table in (fleet.resident_finish, fleet.resident_base, fleet.resident):
        move_entries(table, i, index + 1, index, count - index - 1)
    fleet.instances[i].num_residents = count - 1
    fleet.is_foreseen[i] = 0


@compiled
def overdue_resident(fleet: Fleet, i: int) -> int:
    """Return a resident that has outlived its expected end, or NONE."""
    if fleet.instances[i].num_residents == 0:
        return NONE
    if fleet.resident_finish[i, 0] > fleet.instances[i].iteration:
        return NONE
    return fleet.resident[i, 0]


@compiled
def peak(fleet: Fleet, i: int, finish: int, base: int) -> int:
    """Return the largest KV tokens that the instance will hold with one more resident.

    The newcomer ends at `finish` and holds `base + j`. KV rises between departures, so the peak is at one of them:
    its own, a later one, or one before, where its `base + j` comes on top.
    """
    if fleet.is_foreseen[i] == 0:
        _foresee(fleet, i)
    count, index = fleet.instances[i].num_residents, _after(fleet, i, finish)
    most, total = 0, base
    if index < count:
        most = fleet.peak_from[i, index]
        total += fleet.base_from[i, index]
    most = max(most, total + (count - index + 1) * finish)
    if index > 0:
        most = max(most, base + fleet.peak_until[i, index - 1])
    return most


@compiled
def _foresee(fleet: Fleet, i: int) -> None:
    """Walk the departures, from the last one back, then forwards, and note what `peak` asks for."""
    count = fleet.instances[i].num_residents
    finish, base, base_from = fleet.resident_finish[i], fleet.resident_base[i], fleet.base_from[i]
    peak_from, peak_until = fleet.peak_from[i], fleet.peak_until[i]
    total, most = 0, 0
    for k in range(count - 1, -1, -1):
        total += base[k]
        most = max(most, total + (count - k) * finish[k])
        base_from[k] = total
        peak_from[k] = most
    most = LEAST
    for k in range(count):
        most = max(most, base_from[k] + (count - k + 1) * finish[k])
        peak_until[k] = most
    fleet.is_foreseen[i] = 1


@compiled
def _after(fleet: Fleet, i: int, finish: int) -> int:
    """Return the index of the first resident that ends after iteration `finish`."""
    low, high = 0, fleet.instances[i].num_residents
    while low < high:
        middle = (low + high) // 2
        if fleet.resident_finish[i, middle] <= finish:
            low = middle + 1
        else:
            high = middle
    return low
