"""What polyslo's own parts are told of a request's life, and several listeners as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from polyslo.gateway.relays.relay import Relay
from polyslo.gateway.requests.request import Request
from polyslo.wire.fields import Headers

if TYPE_CHECKING:
    from polyslo.gateway.served_model import ServedModel

# How a request may end. `rejected`: its engine found it wrong, which is nobody's miss; nor is `cancelled`.
# `served`: the good end of best effort, which has no SLO to attain or miss.
OUTCOMES = ("attained", "missed", "refused", "failed", "rejected", "cancelled", "served")
NOBODYS_MISS = frozenset({"rejected", "cancelled"})


def counts(request: Request, outcome: str) -> bool:
    """Tell whether a request that is over counts for attainment."""
    return outcome not in NOBODYS_MISS and not request.is_best_effort


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


class Visitor(Protocol):
    """Whoever asks for a generation: an exchange of this process, or of another one."""

    @property
    def path(self) -> bytes:
        """What it asks for."""

    @property
    def headers(self) -> Headers:
        """Of its request; where another process has it, those of its trace only."""


class Doorkeeper(Protocol):
    """What is told of generations that were answered before anything was decided about them."""

    def turned_away(self, visitor: Visitor, reason: str) -> None:
        """Why: a name of `REFUSALS`, `bad_request`, or `cancelled` by a client that left the line."""


class Doorkeepers:
    """Passes on to each of several doorkeepers, in order."""

    def __init__(self, keepers: Sequence[Doorkeeper] = ()) -> None:
        self._keepers = tuple(keepers)

    def turned_away(self, visitor: Visitor, reason: str) -> None:
        """See `Doorkeeper`."""
        for keeper in self._keepers:
            keeper.turned_away(visitor, reason)


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
