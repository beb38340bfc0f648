"""What is told besides tokens: an engine the SLO that its scheduler goes by, a client what was decided.

Engines with polyslo's scheduler read the SLO from the request's body (`slo_body`).
"""

from __future__ import annotations

import math
from typing import Any

from polyslo.core.state import RUNGS, Fleet
from polyslo.engines.told import BEST_EFFORT, FIRST_DUE_MS, PACE_MS, TPOT_MS
from polyslo.gateway.relays.foreseen import first_token_s
from polyslo.gateway.relays.passage import Header
from polyslo.gateway.relays.relay import Relay, gives_way


def told_slo(relay: Relay, record: Any, budget_s: float, now_s: float) -> dict[str, float]:
    """Return what an engine is told of a request: TPOT, what is left until its first token is due, best effort.

    `record` is what is believed of the request, `budget_s` the longest iteration of its instance: the pace of the
    tier that owns it now.
    """
    told: dict[str, float] = {
        TPOT_MS: round(1e3 * float(record["tpot_s"]), 3),
        FIRST_DUE_MS: round(1e3 * (float(record["first_due_s"]) - now_s), 3),
    }
    if math.isfinite(budget_s):
        told[PACE_MS] = round(1e3 * budget_s, 3)
    if gives_way(relay):
        told[BEST_EFFORT] = 1
    return told


def with_decode_side(receipt: tuple[Header, ...], instance_name: str) -> tuple[Header, ...]:
    """Return a receipt that names the decode instance beside the one that prefilled."""
    name = "".join(c if " " <= c <= "~" else "?" for c in instance_name).encode()
    return tuple((key, told + b", " + name if key == b"x-polyslo-instance" else told) for key, told in receipt)


def receipt(relay: Relay, fleet: Fleet, instance_name: str, now_s: float) -> tuple[Header, ...]:
    """Return what was decided, as response headers; best-effort work has no forecast."""
    arrival_s, record = relay.request.arrival_s, fleet.requests[relay.r]
    told = {
        "tier": relay.passage.tier_label,
        "rung": RUNGS[int(record["rung"])],
        "instance": "".join(c if " " <= c <= "~" else "?" for c in instance_name),  # people name them
        "queue-ms": f"{1e3 * (now_s - arrival_s):.1f}",
    }
    foreseen_s = first_token_s(fleet, relay.r) - arrival_s
    if math.isfinite(foreseen_s) and not gives_way(relay):
        told["predicted-ttft-ms"] = f"{1e3 * foreseen_s:.1f}"
        told["predicted-tpot-ms"] = f"{1e3 * float(record['predicted_tpot_s']):.2f}"
    return tuple((f"x-polyslo-{name}".encode(), text.encode()) for name, text in told.items())
