"""An engine behind an address, as a carrier has it: connections of its own, and whether it is sent requests."""

from __future__ import annotations

from dataclasses import dataclass, field

from polyslo.gateway.belief.event_tokens import EventTokens
from polyslo.gateway.relays.passage import Header
from polyslo.wire.client import Origin


@dataclass(frozen=True, slots=True)
class CarriedInstance:
    """The `Destination` of a carrier."""

    url: str
    origin: Origin
    credentials: tuple[Header, ...] = field(repr=False)
    is_open: bool
    event_tokens: EventTokens = field(default_factory=EventTokens)  # learned from what this carrier carries
