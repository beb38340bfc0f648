"""Where a request was sent and what was foreseen of it, for whoever tells: metrics, log, traces."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from polyslo.core.state import RUNGS
from polyslo.policies.table import POLYSERVE


@dataclass(frozen=True, slots=True)
class Placement:
    """A dispatch. Forecasts are None where there are none: of best-effort work, and of policies that make none."""

    instance: str
    rung: str
    at_s: float
    predicted_ttft_s: float | None
    predicted_tpot_s: float | None


def placement_of(
    record: Any, policy: int, instance: str, *, arrival_s: float, at_s: float, is_relegated: bool
) -> Placement:
    """Return the placement that `record`, what is believed of a request, has now."""
    ttft_s, tpot_s = float(record["predicted_first_s"]) - arrival_s, float(record["predicted_tpot_s"])
    is_foreseen = policy == POLYSERVE and not is_relegated and math.isfinite(ttft_s) and math.isfinite(tpot_s)
    return Placement(
        instance,
        RUNGS[int(record["rung"])],
        at_s,
        ttft_s if is_foreseen else None,
        tpot_s if is_foreseen else None,
    )
