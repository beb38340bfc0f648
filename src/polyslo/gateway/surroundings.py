"""What a served model needs of its surroundings: time, a watch over its instances, and words for refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from polyslo.gateway.relays.passage import Header
from polyslo.gateway.relays.relay import Relay
from polyslo.wire.client import Failure


class Handle(Protocol):
    """A call to come."""

    def cancel(self) -> None:
        """Take it back."""


class Loop(Protocol):
    """What is needed of an event loop."""

    def call_soon(self, callback: Callable[..., object], *args: object) -> Handle:
        """Call after what happens now."""

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> Handle:
        """Call in `delay` seconds."""


class HealthWatch(Protocol):
    """What is told how requests fare at instances."""

    def succeeded(self, i: int) -> None:
        """A request went well there."""

    def failed(self, i: int, *, at_once: bool = False) -> None:
        """A request failed there; `at_once`: there was not even a connection."""


class Refusals(Protocol):
    """How answers that no engine gives are worded."""

    def refused(self, relay: Relay) -> tuple[int, Sequence[Header], bytes]:
        """Answer a request that can't be served in time."""

    def unavailable(self, relay: Relay, failure: Failure | int) -> tuple[int, Sequence[Header], bytes]:
        """Answer a request whose instances failed."""

    def expired(self, relay: Relay) -> tuple[int, Sequence[Header], bytes]:
        """Answer a request that took longer than any may."""
