"""What is told besides tokens: an engine the SLO that its scheduler goes by, a client what was decided.

Engines with polyslo's scheduler read the SLO from `vllm_xargs`, which vLLM passes on to schedulers untouched.
"""

from __future__ import annotations

import math
from typing import Any

import orjson

from polyslo.core.state import RUNGS, Fleet
from polyslo.engines.told import BEST_EFFORT, FIRST_DUE_MS, PACE_MS, TPOT_MS
from polyslo.gateway.body import encode_body
from polyslo.gateway.foreseen import first_token_s
from polyslo.gateway.openai_errors import BadRequest
from polyslo.gateway.relay import Header, Relay


def body_with_slo(relay: Relay, record: Any, budget_s: float, now_s: float) -> bytes:
    """Return a request's body with its SLO: its TPOT, what is left until its first token is due, and relegation.

    `record` is what is believed of the request, `budget_s` the longest iteration of its instance: the pace of the
    tier that owns it now.
    """
    told = slo_told(record, budget_s, now_s)
    if relay.passage.is_relegated:
        told[BEST_EFFORT] = 1
    body = relay.body.rstrip()
    if b'"vllm_xargs"' not in body:  # spliced in: bodies may be large
        return b'%b,"vllm_xargs":%b}' % (body[:-1], orjson.dumps(told))
    given = relay.passage.ask.body.get("vllm_xargs")
    if given is not None and not isinstance(given, dict):
        return relay.body  # the engine's to refuse
    try:
        return encode_body({**relay.passage.ask.body, "vllm_xargs": {**(given or {}), **told}})
    except BadRequest:  # nested too deep to be written again
        return relay.body


def slo_told(record: Any, budget_s: float, now_s: float) -> dict[str, float]:
    """Return what an engine is told of a request's SLO, and its own pace; arguments as `body_with_slo` has them."""
    told = {
        TPOT_MS: round(1e3 * float(record["tpot_s"]), 3),
        FIRST_DUE_MS: round(1e3 * (float(record["first_due_s"]) - now_s), 3),
    }
    if math.isfinite(budget_s):
        told[PACE_MS] = round(1e3 * budget_s, 3)
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
    if math.isfinite(foreseen_s) and not relay.passage.is_relegated:
        told["predicted-ttft-ms"] = f"{1e3 * foreseen_s:.1f}"
        told["predicted-tpot-ms"] = f"{1e3 * float(record['predicted_tpot_s']):.2f}"
    return tuple((f"x-polyslo-{name}".encode(), text.encode()) for name, text in told.items())
