"""What polyslo's own parts are told of a request's life, and several listeners as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from polyslo.gateway.relays.relay import Relay
from polyslo.wire.server import Exchange

if TYPE_CHECKING:
    from polyslo.gateway.served_model import ServedModel

# How a request may end. `rejected`: its engine found it wrong, which is nobody's miss; nor is `cancelled`.
OUTCOMES = ("attained", "missed", "refused", "failed", "rejected", "cancelled")
NOBODYS_MISS = frozenset({"rejected", "cancelled"})


class Listener(Protocol):
    """What is told of decisions and outcomes: metrics, logs, the page."""

    def arrived(self, relay: Relay) -> None:
        """A request was taken in."""

    def decided(self, model: ServedModel, relay: Relay, kind: int, i: int) -> None:
        """A decision about a request is carried out."""

    def moved(self, model: ServedModel, i: int) -> None:
        """An instance changed its group."""

    def health_changed(self, model: ServedModel, i: int) -> None:
        """An instance was closed or opened."""

    def finished(self, relay: Relay, outcome: str) -> None:
        """A request is over: one of `OUTCOMES`."""


class Doorkeeper(Protocol):
    """What is told of generations that were answered before anything was decided about them."""

    def turned_away(self, exchange: Exchange | None, reason: str) -> None:
        """Why: a name of `REFUSALS`, `bad_request`, or `cancelled` by a client that left the line.

        `exchange` is None where another process has the client.
        """


class Doorkeepers:
    """Passes on to each of several doorkeepers, in order."""

    def __init__(self, keepers: Sequence[Doorkeeper] = ()) -> None:
        self._keepers = tuple(keepers)

    def turned_away(self, exchange: Exchange | None, reason: str) -> None:
        """See `Doorkeeper`."""
        for keeper in self._keepers:
            keeper.turned_away(exchange, reason)


NOBODY_AT_THE_DOOR = Doorkeepers()


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
