"""When a request's first token is foreseen: with its prefill, or after it on the decode side."""

from __future__ import annotations

from polyslo.core.admission import transfer_s
from polyslo.core.state import Fleet


def first_token_s(fleet: Fleet, r: int) -> float:
    """Return when request `r`'s first token is expected, by the clock of its arrival; inf without a forecast.

    Where the decode side gives it: after the transfer, the iteration then running, and its own.
    """
    record = fleet.requests[r]
    prefilled_s = float(record["predicted_first_s"])
    if not record["hands_over"] or not fleet.settings["first_from_decode"][0]:
        return prefilled_s
    arrives_s = prefilled_s + float(transfer_s(fleet.handle, record["prefill_tokens"]))
    return arrives_s + 2.0 * float(record["predicted_tpot_s"])
