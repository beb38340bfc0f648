"""The requests that a carrier carries: what becomes of them is told to the decider's process, which says what to do.

A request's `r` is its number here. Whatever must be decided waits for an answer, everything else goes on at once:
bytes, the end of a stream, the abort of what a client has left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Protocol

import orjson

from polyslo.gateway.belief.tokens import Estimate
from polyslo.gateway.front_model import Send
from polyslo.gateway.processes import messages
from polyslo.gateway.processes.carried_instance import CarriedInstance
from polyslo.gateway.processes.gathered_news import GatheredNews
from polyslo.gateway.processes.link import Messenger
from polyslo.gateway.processes.messages import Said, Told
from polyslo.gateway.relays.near_relay import NearRelay
from polyslo.gateway.relays.passage import Header, Passage
from polyslo.gateway.relays.places import Client
from polyslo.gateway.requests.request import Request
from polyslo.gateway.surroundings import Loop
from polyslo.wire.client import Failure
from polyslo.wire.server import Exchange

if TYPE_CHECKING:  # slow to import
    import numpy as np
    import numpy.typing as npt

    from polyslo.gateway.relays.bypass import Bypass


class Model(Protocol):
    """What is needed of a request's model: see `CarriedModel`."""

    name: str
    estimates: tuple[Estimate, Estimate]
    instances: dict[int, CarriedInstance]


class Carried:
    """The requests under way; the `Watcher` of their relays."""

    def __init__(self, messenger: Messenger, clock: Callable[[], float], loop: Loop) -> None:
        self.bypass: Bypass | None = None
        self._messenger = messenger
        self._clock = clock
        self._news = GatheredNews(messenger, loop)
        self._numbers = count(1)
        self._relays: dict[int, tuple[NearRelay, Model]] = {}
        self._asked: dict[int, tuple[Client, Model, Send]] = {}  # where to send what nobody decides about

    @property
    def num_under_way(self) -> int:
        """Requests that are not over, but for those that are passed on."""
        return len(self._relays)

    def take_in(
        self,
        model: Model,
        exchange: Exchange,
        body: bytes,
        request: Request,
        headers: Sequence[Header],
        passage: Passage,
    ) -> NearRelay:
        """Tell of a request; what becomes of it will be said."""
        number = next(self._numbers)
        relay = NearRelay(number, exchange, body, request, self, self._clock, headers, passage)
        self._relays[number] = relay, model
        self._messenger.tell(Said.ARRIVAL, number, messages.arrival(model.name, request, passage))
        return relay

    def ask_for_place(self, model: Model, exchange: Client, key_name: str | None, send: Send) -> None:
        """Ask for a place, and which instance of a model has the least to do."""
        number = next(self._numbers)
        self._asked[number] = exchange, model, send
        exchange.on_gone = lambda: self._give_up(number)
        self._messenger.tell(Said.PLACE, number, messages.place(model.name, key_name, exchange.path))

    def take(self, kind: int, number: int, content: bytes) -> None:
        """Do what was said about a request; one that is over is nobody's any more."""
        if number in self._asked:
            self._place(number, kind, content)
        elif number in self._relays:
            relay, model = self._relays[number]
            self._obey(relay, model, kind, content)

    def started(self, relay: NearRelay) -> None:
        """See `Watcher`."""
        self._news.add(relay.r, 0, self._clock())

    def saw_tokens(self, r: int, tokens: int, now_s: float) -> None:
        """See `Watcher`."""
        self._news.add(r, tokens, now_s)

    def saw_many(self, rows: npt.NDArray[np.int64], now_s: float) -> None:
        """Hear of a bypass's tokens: rows of a request's number and how many of it."""
        self._news.add_many(rows, now_s)

    def prefilled(self, relay: NearRelay) -> None:
        """See `Watcher`."""
        self._messenger.tell(Said.PREFILLED, relay.r)

    def ended(self, relay: NearRelay, output_tokens: int) -> None:
        """See `Watcher`."""
        _, model = self._relays[relay.r]
        passage = relay.passage
        if passage.prompt_tokens is not None:
            model.estimates[passage.ask.is_chat].learn(passage.ask, passage.prompt_tokens)
        self._close(Said.ENDED, relay, output_tokens)

    def failed(self, relay: NearRelay, failure: Failure | int) -> bool:
        """See `Watcher`: unless its response has ended with this, it waits."""
        if isinstance(failure, int) and relay.is_committed:
            self._close(Said.BROKEN, relay)
            return False
        self._tell_failure(relay, failure)
        relay.at.start_over()
        return True

    def rejected(self, relay: NearRelay, status: int) -> None:
        """See `Watcher`."""
        self._close(Said.REJECTED, relay, status)

    def left(self, relay: NearRelay) -> None:
        """See `Watcher`."""
        self._close(Said.LEFT, relay)

    def _close(self, kind: Said, relay: NearRelay, told: object = None) -> None:
        """Tell of a request's end, after everything else about it."""
        del self._relays[relay.r]
        self._news.flush()
        self._messenger.tell(kind, relay.r, messages.lived(relay.passage, told))

    def _obey(self, relay: NearRelay, model: Model, kind: int, content: bytes) -> None:
        if kind in (Told.SEND, Told.PREFILL):
            if not relay.is_committed:
                self._send(relay, model, kind, content)
        elif kind == Told.TAKE_BACK:
            self._take_back(relay)
        else:
            del self._relays[relay.r]
            self._finish(relay, kind, content)

    def _take_back(self, relay: NearRelay) -> None:
        """Say whether a request was taken, after all that it has shown; that it stays is said once."""
        if relay.stays:
            return
        is_taken = relay.take_back()
        self._news.flush()
        self._messenger.tell(Said.TAKEN if is_taken else Said.STAYS, relay.r)
        if not is_taken and relay.at.instance is None:  # it has failed meanwhile, which nobody who took it has heard
            self._tell_failure(relay, Failure("reset", "its engine broke off", started=True))

    def _tell_failure(self, relay: NearRelay, failure: Failure | int) -> None:
        self._news.flush()
        self._messenger.tell(Said.FAILED, relay.r, messages.lived(relay.passage, messages.failure(failure)))

    def _send(self, relay: NearRelay, model: Model, kind: int, content: bytes) -> None:
        errand, relay.receipt, trace = messages.read_errand(content, model.instances)
        if trace:
            relay.trace(trace)
        if kind == Told.PREFILL:
            relay.prefill(errand)
        else:
            relay.send(errand)

    def _finish(self, relay: NearRelay, kind: int, content: bytes) -> None:
        """End a response as was said; one that has begun meanwhile can only be cut."""
        if kind == Told.BREAK_OFF or relay.has_started:
            relay.break_off()
        elif kind == Told.LET_THROUGH:
            relay.let_through()
        else:
            status, headers, adds_ours, body = messages.read_answer(content)
            (relay.answer if adds_ours else relay.turn_away)(status, headers, body)

    def _place(self, number: int, kind: int, content: bytes) -> None:
        exchange, model, send = self._asked.pop(number)
        exchange.on_gone = None
        if kind == Told.PLACED:
            send(model.instances[orjson.loads(content)], lambda: self._messenger.tell(Said.PASSED, number))
        else:
            status, headers, _, body = messages.read_answer(content)
            exchange.respond(status, headers, body)

    def _give_up(self, number: int) -> None:
        """The client of what waits for a place has gone; what is told of it meanwhile is nobody's."""
        del self._asked[number]
        self._messenger.tell(Said.PASSED, number)
