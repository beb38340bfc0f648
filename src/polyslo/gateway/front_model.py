"""What the front door needs to know of a model, and whom it asks for a place.

In a gateway of one process these are the served model and the places themselves; in a carrier (`carrier`) what the
decider's process has told of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from polyslo.gateway.belief.tokens import Estimate
from polyslo.gateway.config.slo import KeyConfig
from polyslo.gateway.relays.passage import Header, Passage
from polyslo.gateway.relays.places import Client, Enter
from polyslo.gateway.relays.relay import Relay
from polyslo.gateway.requests.least_ttft import LeastTtft
from polyslo.gateway.requests.openai_errors import Refusal
from polyslo.gateway.requests.request import Request
from polyslo.wire.client import Origin
from polyslo.wire.fields import Headers
from polyslo.wire.server import Exchange


class Destination(Protocol):
    """An instance, as requests are sent there."""

    @property
    def origin(self) -> Origin:
        """Where it is."""

    @property
    def is_open(self) -> bool:
        """Whether it is sent new requests."""

    @property
    def credentials(self) -> tuple[Header, ...]:
        """The headers with which the engine lets us in."""


class Caller(Client, Protocol):
    """Who comes to the front door: a request, whoever carries its bytes."""

    @property
    def method(self) -> bytes:
        """Its method."""

    @property
    def body(self) -> bytes:
        """All of its body."""

    def header(self, name: bytes) -> bytes | None:
        """Return the first field of that (lower-case) name."""


Leave = Callable[[], None]  # gives a place back; to be called once
Send = Callable[[Destination, Leave], None]


class FrontModel(Protocol):
    """A model as requests for it are received."""

    name: str
    tier_labels: tuple[str, ...]
    kv_capacity_tokens: int
    is_disaggregated: bool
    estimates: tuple[Estimate, Estimate]
    least_ttft: LeastTtft

    @property
    def destinations(self) -> Iterable[Destination]:
        """Its instances."""

    @property
    def tpots_s(self) -> tuple[float, ...]:
        """The tiers' TPOTs, ascending."""

    @property
    def has_open_instance(self) -> bool:
        """Whether any instance takes requests."""

    def admit(
        self, exchange: Exchange, body: bytes, request: Request, headers: Sequence[Header], passage: Passage
    ) -> Relay | None:
        """Take a request in; None when there is no room for one more."""

    def pass_on(self, exchange: Client, key: KeyConfig | None, places: Admission, send: Send) -> Refusal | None:
        """Find a place for what nobody decides about, as `Admission.take` does, and the open instance with least to do.

        Calls `send` with these. An exchange that waits has its client's leaving noticed.
        """


class Admission(Protocol):
    """Who gives out places."""

    def take(self, exchange: Client, key: KeyConfig | None, enter: Enter) -> Refusal | None:
        """Call `enter` in a place, now or when it is this request's turn; a refusal where there is not even a wait."""

    def leave(self, key_name: str | None) -> None:
        """Give a place back that no relay has."""

    def turn_away(self, refusal: Refusal) -> None:
        """Answer everybody in line with the same refusal."""


C = TypeVar("C", bound=Caller, contravariant=True)


class Carriage(Protocol[C]):
    """How what was let in gets to instances."""

    def take_in(
        self,
        model: FrontModel,
        exchange: C,
        body: bytes,
        request: Request,
        headers: Sequence[Header],
        passage: Passage,
    ) -> Relay | None:
        """Have a request decided about, and carried; None when there is no room for one more."""

    def pass_on(self, exchange: C, origin: Origin, headers: Headers, timeout_s: float, leave: Leave) -> None:
        """Have a request carried that nobody decides about; `leave` is called when it is over."""
