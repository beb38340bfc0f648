"""Where a policy that knows no tiers may send a request: all instances (CO), or the prefill or decode side (PD)."""

from __future__ import annotations

from polyslo.compiled import compiled
from polyslo.core.state import TRANSFERRING, Fleet, prefill_group


@compiled
def entry_group(fleet: Fleet, r: int) -> int:
    """Return the group to choose from: in PD the prefill side first, then, once prefilled, the decode side."""
    if fleet.settings[0].disaggregated == 1 and fleet.requests[r].stage != TRANSFERRING:
        return prefill_group(fleet)
    return 0
