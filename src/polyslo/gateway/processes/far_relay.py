"""A request that a carrier carries, as the decider's process knows it: what is decided becomes messages.

What the carrier has done meanwhile is not known at once. A request that is taken back may have begun its response, and
may not be one that another instance can go on with. The carrier says whether it was taken or stays; until then,
anything it tells is of where the request was before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from polyslo.gateway.processes import messages
from polyslo.gateway.processes.messages import Told
from polyslo.gateway.relays.errand import Errand
from polyslo.gateway.relays.passage import Header, Passage
from polyslo.gateway.relays.relay import gives_way, removed
from polyslo.gateway.relays.whereabouts import Whereabouts
from polyslo.gateway.requests.request import Request
from polyslo.wire.client import Failure, Origin

if TYPE_CHECKING:
    from polyslo.gateway.served_model import ServedModel


class Carrier(Protocol):
    """The other end of a link, as its requests need it."""

    def tell(self, kind: int, number: int, content: bytes = b"") -> None:
        """Say something about a request."""

    def forget(self, number: int) -> None:
        """A request is over, as far as is decided here."""

    def introduce(self, model: ServedModel, i: int, origin: Origin) -> None:
        """See to it that the carrier knows an instance that it is about to be told of."""

    def fail(self, relay: FarRelay, failure: Failure) -> None:
        """A request's instance is gone."""


@dataclass(frozen=True, slots=True)
class FarVisitor:
    """The `Visitor` that a carrier has turned away."""

    path: bytes
    headers: Sequence[Header]  # of its trace


class FarExchange:
    """A client's request in a carrier, before anything is decided about it."""

    def __init__(self, number: int, carrier: Carrier) -> None:
        self.number = number
        self.path = b""  # with its trace's headers what is told of one that is turned away
        self.headers: Sequence[Header] = ()
        self.on_gone: Callable[[], None] | None = None
        self._carrier = carrier

    def respond(self, status: int, headers: Sequence[Header], body: bytes, *, adds_ours: bool = False) -> None:
        """Answer it; `adds_ours`: with the headers that the carrier has for it."""
        self.end(Told.ANSWER, messages.answer(status, headers, body, adds_ours=adds_ours))

    def end(self, kind: Told, content: bytes = b"") -> None:
        """Say the last thing about it."""
        self.on_gone = None
        self._carrier.forget(self.number)
        self._carrier.tell(kind, self.number, content)

    def leave(self) -> None:
        """Its client has gone."""
        if self.on_gone is not None:
            self.on_gone()


class FarRelay:
    """The `Relay` of a request in a carrier."""

    def __init__(
        self,
        r: int,
        exchange: FarExchange,
        request: Request,
        passage: Passage,
        model: ServedModel,
        carrier: Carrier,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.r = r
        self.exchange = exchange
        self.request = request
        self.passage = passage
        self.model = model
        self.at = Whereabouts(passage, clock)
        self.receipt: tuple[Header, ...] = ()
        self.has_started = False
        self._carrier = carrier
        self._trace: tuple[Header, ...] = ()
        self.unseen_tokens = 0  # told while it was being taken, which belief has not seen
        self._awaits_rest = False  # it was taken back, and its client has not been sent any more of it
        self._stays = False  # the carrier could not take it back, and will not
        self._was_started = False  # when it was to be taken back
        self._taken_from: deque[int] = deque()  # instances; the carrier has not said yet whether it was taken
        exchange.on_gone = lambda: model.left(self)

    @property
    def is_being_taken(self) -> bool:
        """Whether what is heard of it is of where it was before."""
        return bool(self._taken_from)

    def settle(self) -> None:
        """See `Relay`: it never lags behind."""

    @property
    def is_committed(self) -> bool:
        """See `Relay`; as far as is known here."""
        return self.has_started and not self._awaits_rest and not self.is_being_taken

    def trace(self, context: Sequence[Header]) -> None:
        """See `Relay`: it is told with each errand."""
        self._trace = tuple(context)

    def send(self, errand: Errand) -> None:
        """See `Relay`; the carrier has connections and credentials of its own."""
        self.at.go_to(errand.i)
        self._tell(Told.SEND, errand)

    def prefill(self, errand: Errand) -> None:
        """See `Relay`."""
        self.at.begin_at(errand.i)
        self._tell(Told.PREFILL, errand)

    def prefilled(self) -> None:
        """The carrier has been told where its KV is."""
        self.at.note_prefilled({})
        self.model.prefilled(self)

    def take_back(self) -> bool:
        """See `Relay`; as far as is known here."""
        may_leave = self.passage.is_resumable and gives_way(self) and not self._stays
        if self.is_committed and not may_leave:
            return False
        self._ask_back()
        self.at.start_over()
        return True

    def lose_instance(self) -> None:
        """See `Relay`."""
        if not self.is_committed:
            self._ask_back()
        self._carrier.fail(self, removed(started=self.has_started))

    def was_taken(self) -> None:
        """The carrier has done what `take_back` asked for."""
        if self._taken_from:
            self._taken_from.popleft()
            self._awaits_rest = self.has_started

    def stay(self) -> int | None:
        """Note that it stays where its client was sent some of it; return where, if it was to be taken back."""
        stays = self._taken_from[0] if self._taken_from else None
        self._taken_from.clear()
        self.has_started, self._awaits_rest, self._stays = True, False, True
        self.unseen_tokens = 0 if self._was_started else self.unseen_tokens
        return stays

    def saw(self, tokens: int) -> None:
        """Note that its client was sent something."""
        self.has_started = True
        if self.is_being_taken:
            self.unseen_tokens += tokens
        else:
            self._awaits_rest = False

    def answer(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """See `Relay`."""
        self.exchange.respond(status, headers, body, adds_ours=True)

    def let_through(self) -> None:
        """Let its client have the error that its instance answered."""
        self.exchange.end(Told.LET_THROUGH)

    def break_off(self) -> None:
        """See `Relay`."""
        self.exchange.end(Told.BREAK_OFF)

    def _ask_back(self) -> None:
        assert self.at.instance is not None
        if not self._taken_from:
            self._was_started, self.unseen_tokens = self.has_started, 0
        self._taken_from.append(self.at.instance)
        self._carrier.tell(Told.TAKE_BACK, self.exchange.number)

    def _tell(self, kind: Told, errand: Errand) -> None:
        self._carrier.introduce(self.model, errand.i, errand.origin)
        self._carrier.tell(kind, self.exchange.number, messages.errand(errand, self.receipt, self._trace))
