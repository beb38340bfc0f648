"""Where a request was sent and what was foreseen of it, for whoever tells: metrics, log, traces."""

from __future__ import annotations

import math
from dataclasses import dataclass

from polyslo.core.state import RUNGS, Fleet
from polyslo.gateway.relays.foreseen import first_token_s
from polyslo.policies.table import POLYSERVE


@dataclass(frozen=True, slots=True)
class Placement:
    """A dispatch. Forecasts are None where there are none: of best-effort work, and of policies that make none."""

    instance: str
    rung: str
    at_s: float
    predicted_ttft_s: float | None
    predicted_tpot_s: float | None
    prefill_instance: str | None = None  # where its KV came from, once it has been transferred


def placement_of(
    fleet: Fleet, r: int, policy: int, instance: str, *, arrival_s: float, at_s: float, gives_way: bool
) -> Placement:
    """Return the placement that request `r` has now."""
    record = fleet.requests[r]
    ttft_s, tpot_s = first_token_s(fleet, r) - arrival_s, float(record["predicted_tpot_s"])
    is_foreseen = policy == POLYSERVE and not gives_way and math.isfinite(ttft_s) and math.isfinite(tpot_s)
    return Placement(
        instance,
        RUNGS[int(record["rung"])],
        at_s,
        ttft_s if is_foreseen else None,
        tpot_s if is_foreseen else None,
    )
