"""What polyslo's own parts are told of a request's life: several listeners as one."""

from __future__ import annotations

from collections.abc import Sequence

from polyslo.gateway.relay import Relay
from polyslo.gateway.served_model import Listener, ServedModel


class Listeners:
    """Passes on to each of several listeners, in order."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = tuple(listeners)

    def arrived(self, relay: Relay) -> None:
        """See `Listener`."""
        for listener in self._listeners:
            listener.arrived(relay)

    def decided(self, model: ServedModel, relay: Relay, kind: int, i: int) -> None:
        """See `Listener`."""
        for listener in self._listeners:
            listener.decided(model, relay, kind, i)

    def moved(self, model: ServedModel, i: int) -> None:
        """See `Listener`."""
        for listener in self._listeners:
            listener.moved(model, i)

    def health_changed(self, model: ServedModel, i: int) -> None:
        """See `Listener`."""
        for listener in self._listeners:
            listener.health_changed(model, i)

    def finished(self, relay: Relay, outcome: str) -> None:
        """See `Listener`."""
        for listener in self._listeners:
            listener.finished(relay, outcome)
