"""Where a request is sent, and with what: the value that who decides gives to who carries bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from polyslo.gateway.belief.event_tokens import EventTokens
from polyslo.gateway.relays.passage import Header
from polyslo.wire.client import Origin


@dataclass(frozen=True, slots=True)
class Errand:
    """A request's way to one instance, to be served or to be prefilled there."""

    i: int  # the instance's slot
    origin: Origin
    told: Mapping[str, float] | None  # the SLO that its engine is told; None: nothing
    credentials: Sequence[Header] = field(repr=False)
    first_byte_timeout_s: float
    idle_timeout_s: float  # from the first token on
    event_tokens: EventTokens  # of its streams
    is_best_effort: bool = False  # it may be taken away from there at any moment
