"""An engine behind an address, as the gateway holds it: where it is, whether it is sent requests, and which it has."""

from __future__ import annotations

from dataclasses import dataclass, field

from polyslo.core.state import FITS
from polyslo.gateway.relay import Header, Relay
from polyslo.wire.client import Origin


@dataclass(slots=True)
class Instance:
    """An engine behind one address."""

    index: int
    name: str
    url: str
    origin: Origin
    api_key: str | None = field(default=None, repr=False)  # that the engine wants
    closed: int = FITS
    running: set[Relay] = field(default_factory=set)  # requests sent there

    @property
    def is_open(self) -> bool:
        """Whether it is sent new requests."""
        return self.closed == FITS

    @property
    def credentials(self) -> tuple[Header, ...]:
        """The headers with which the engine lets us in."""
        return () if self.api_key is None else ((b"authorization", b"Bearer " + self.api_key.encode()),)
