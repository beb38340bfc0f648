"""An engine behind an address, as the gateway holds it: where it is, whether it is sent requests, and which it has."""

from __future__ import annotations

from dataclasses import dataclass, field

from polyslo.core.state import ABSENT, DRAINING, FITS
from polyslo.gateway.belief.event_tokens import EventTokens
from polyslo.gateway.relays.passage import Header
from polyslo.gateway.relays.relay import Relay
from polyslo.wire.client import Origin

CONFIGURED, LISTED, POSTED = "configuration", "instances_file", "request"  # who told of it


@dataclass(slots=True, eq=False)
class Instance:
    """An engine behind one address."""

    index: int
    name: str
    url: str
    origin: Origin
    api_key: str | None = field(default=None, repr=False)  # that the engine wants
    closed: int = FITS
    running: set[Relay] = field(default_factory=set)  # requests sent there
    event_tokens: EventTokens = field(default_factory=EventTokens)
    role: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    source: str = CONFIGURED
    is_joining: bool = False  # it is opened by the first good look at it
    is_leaving: bool = False  # it is gone when its requests are over
    was_open: bool = True  # ever

    @property
    def is_open(self) -> bool:
        """Whether it is sent new requests."""
        return self.closed == FITS

    @property
    def credentials(self) -> tuple[Header, ...]:
        """The headers with which the engine lets us in."""
        return () if self.api_key is None else ((b"authorization", b"Bearer " + self.api_key.encode()),)

    @property
    def standing(self) -> str:
        """How it stands, in a word."""
        if self.is_leaving:
            return "draining"
        if self.is_joining:
            return "joining"
        return {FITS: "ready", DRAINING: "draining", ABSENT: "gone"}.get(self.closed, "unhealthy")

    @property
    def news(self) -> str:
        """What has just happened to it, when it was closed or opened."""
        if self.closed == FITS:
            return "recovered" if self.was_open else "joined"
        return {DRAINING: "draining", ABSENT: "left"}.get(self.closed, "unhealthy")
