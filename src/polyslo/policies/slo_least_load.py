"""`slo-least-load`: the least loaded instance among those predicted to meet the SLO, else the least loaded.

The published rule of the llm-d router's SLO-aware scheduling, with polyslo's forecasts as the predictor.
"""

from __future__ import annotations

import math

from polyslo.compiled import compiled
from polyslo.core.admission import admit_colocated, admit_decode, admit_prefill
from polyslo.core.state import FITS, TRANSFERRING, Fleet
from polyslo.policies.candidates import entry_group
from polyslo.policies.least_loaded import least_loaded


@compiled
def least_loaded_in_time(fleet: Fleet, r: int, now_s: float) -> int:
    """Return the least loaded instance that is predicted to keep the request's TTFT and TPOT."""
    group = entry_group(fleet, r)
    for rank in range(fleet.group_size[group] - 1, -1, -1):
        i = fleet.order[group, rank]
        if fleet.settings[0].disaggregated == 0:
            reason, _, _, _ = admit_colocated(fleet, i, r, now_s, math.inf)
        elif fleet.requests[r].stage == TRANSFERRING:
            reason, _, _ = admit_decode(fleet, i, r, now_s, now_s, fleet.requests[r].tpot_s)
        else:
            reason, _ = admit_prefill(fleet, i, r, now_s)
        if reason == FITS:
            return i
    return least_loaded(fleet, r, now_s)
