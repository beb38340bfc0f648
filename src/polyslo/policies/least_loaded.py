"""`minimal` and `chunk`: the least loaded instance (PolyServe's baselines; every router's default)."""

from __future__ import annotations

from polyslo.compiled import compiled
from polyslo.core.gradient import least_loaded_open
from polyslo.core.state import Fleet
from polyslo.policies.candidates import entry_group


@compiled
def least_loaded(fleet: Fleet, r: int, now_s: float) -> int:
    """Return the open instance with the fewest promised tokens."""
    return least_loaded_open(fleet, entry_group(fleet, r))
