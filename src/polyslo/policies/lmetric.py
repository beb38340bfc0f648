"""`lmetric`: the smallest product of new prefill tokens and batch size (LMetric, OSDI '26)."""

from __future__ import annotations

from polyslo.compiled import compiled
from polyslo.core.state import FITS, NONE, Fleet
from polyslo.policies.candidates import entry_group


@compiled
def smallest_product(fleet: Fleet, r: int, now_s: float) -> int:
    """Return the open instance where (queued + own prompt tokens) x (batch + 1) is smallest."""
    group, best, least = entry_group(fleet, r), NONE, 0.0
    for rank in range(fleet.group_size[group] - 1, -1, -1):
        i = fleet.order[group, rank]
        instance = fleet.instances[i]
        if instance.closed != FITS:
            continue
        batch = instance.num_decodes + instance.num_queued + 1
        product = float(instance.queued_tokens + fleet.requests[r].remaining_tokens + 1) * batch
        if best == NONE or product < least:
            best, least = i, product
    return best
