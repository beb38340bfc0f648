"""One client's request on its way, and whom it tells: the seam between who carries bytes and who decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from polyslo.gateway.relays.errand import Errand
from polyslo.gateway.relays.passage import Header, Passage
from polyslo.gateway.relays.whereabouts import Whereabouts
from polyslo.gateway.requests.request import Request
from polyslo.wire.client import Failure

if TYPE_CHECKING:
    from polyslo.gateway.relays.bypass import Bypass
    from polyslo.gateway.relays.near_relay import NearRelay


class Relay(Protocol):
    """A request under way, as who decides about it knows it: carried by this process or by another one."""

    r: int
    request: Request
    passage: Passage
    at: Whereabouts
    receipt: tuple[Header, ...]  # of the last decision

    @property
    def has_started(self) -> bool:
        """Whether its client was sent anything."""

    @property
    def is_committed(self) -> bool:
        """Whether its client was sent some of what its instance answers: as it stands, no other one can go on."""

    def settle(self) -> None:
        """Bring its passage up to date, which otherwise may lag behind while tokens come."""

    def trace(self, context: Sequence[Header]) -> None:
        """Have engines see these headers of a trace from now on, in place of its client's."""

    def send(self, errand: Errand) -> None:
        """Send the request to an instance, which is told an SLO with it; a second one is sent it afresh.

        One that is prefilled is sent with where its KV is.
        """

    def prefill(self, errand: Errand) -> None:
        """Have an instance prefill the request, to be sent to another one then."""

    def take_back(self) -> bool:
        """Abort the instance's work, to be sent elsewhere later; False where the client would notice: it stays.

        One whose client has been sent some of it may go on elsewhere where it was sent as best effort and is resumable.
        """

    def lose_instance(self) -> None:
        """Take note that its instance is gone for good: another one gets it, or its client is told."""

    def answer(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Answer in the instance's place and be done."""

    def break_off(self) -> None:
        """End a response that can't be completed, so that the client sees it."""


def gives_way(relay: Relay) -> bool:
    """Tell whether a request has no SLO (any more), so that it may be taken from its instance at any moment."""
    return relay.request.is_best_effort or relay.passage.is_relegated


def removed(*, started: bool) -> Failure:
    """Return the failure of a request whose instance is gone for good, which is no instance's fault."""
    return Failure("removed", "its instance was removed", started=started)


class Watcher(Protocol):
    """Whoever must know what becomes of relayed requests: the served model."""

    bypass: Bypass | None  # what streams go past Python by, where they can

    def started(self, relay: NearRelay) -> None:
        """The client is sent the first of a stream, or of its rest: nobody can answer it from its beginning now."""

    def saw_tokens(self, r: int, tokens: int, now_s: float) -> None:
        """Tokens came on a request's stream, and were not counted by `bypass`."""

    def prefilled(self, relay: NearRelay) -> None:
        """A request's prefill ended, its KV waits to be fetched."""

    def ended(self, relay: NearRelay, output_tokens: int) -> None:
        """A request ended well."""

    def failed(self, relay: NearRelay, failure: Failure | int) -> bool:
        """An instance failed it (or answered with an error status); True when it must wait for what is decided."""

    def rejected(self, relay: NearRelay, status: int) -> None:
        """An instance answered that the request itself is wrong."""

    def left(self, relay: NearRelay) -> None:
        """The client is gone."""
