"""What is told besides tokens: an engine the SLO that its scheduler goes by, a client what was decided.

Engines with polyslo's scheduler read the SLO from the request's body (`slo_body`).
"""

from __future__ import annotations

import math
from typing import Any

from polyslo.core.state import RUNGS
from polyslo.gateway.relay import Header, Relay


def told_slo(record: Any, budget_s: float, now_s: float) -> dict[str, float]:
    """Return what an engine is told of a request: its TPOT, and what is left until its first token is due.

    `record` is what is believed of the request, `budget_s` the longest iteration of its instance: the pace of the
    tier that owns it now.
    """
    told = {
        "polyslo_tpot_ms": round(1e3 * float(record["tpot_s"]), 3),
        "polyslo_first_due_ms": round(1e3 * (float(record["first_due_s"]) - now_s), 3),
    }
    if math.isfinite(budget_s):
        told["polyslo_pace_ms"] = round(1e3 * budget_s, 3)
    return told


def receipt(relay: Relay, record: Any, instance_name: str, now_s: float) -> tuple[Header, ...]:
    """Return what was decided, as response headers; best-effort work has no forecast."""
    arrival_s = relay.request.arrival_s
    told = {
        "tier": relay.passage.tier_label,
        "rung": RUNGS[int(record["rung"])],
        "instance": "".join(c if " " <= c <= "~" else "?" for c in instance_name),  # people name them
        "queue-ms": f"{1e3 * (now_s - arrival_s):.1f}",
    }
    foreseen_s = float(record["predicted_first_s"]) - arrival_s
    if math.isfinite(foreseen_s) and not relay.passage.is_relegated:
        told["predicted-ttft-ms"] = f"{1e3 * foreseen_s:.1f}"
        told["predicted-tpot-ms"] = f"{1e3 * float(record['predicted_tpot_s']):.2f}"
    return tuple((f"x-polyslo-{name}".encode(), text.encode()) for name, text in told.items())
