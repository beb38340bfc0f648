"""One client's request that another gateway carries to the instance that was decided on; what comes back is watched.

Once it is picked it stays: nobody can take it back, try it elsewhere or hold its beginning. Nothing but tokens, status
and end is taken from the answer, and how long its engine may be silent is the other gateway's to bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from polyslo.gateway.belief.event_tokens import ONE_EACH
from polyslo.gateway.belief.usage import completion_tokens, prompt_tokens
from polyslo.gateway.picker.picked_exchange import Pick, PickedExchange
from polyslo.gateway.relays.broken import is_broken
from polyslo.gateway.relays.counting import Tally
from polyslo.gateway.relays.errand import Errand
from polyslo.gateway.relays.near_relay import may_do_better
from polyslo.gateway.relays.passage import Header, Passage
from polyslo.gateway.relays.relay import removed
from polyslo.gateway.relays.reply import Reply
from polyslo.gateway.relays.whereabouts import Whereabouts
from polyslo.gateway.requests.request import Request
from polyslo.gateway.requests.slo_body import body_with_slo
from polyslo.gateway.requests.trace_context import with_context
from polyslo.wire.client import Failure

if TYPE_CHECKING:
    from polyslo.gateway.served_model import ServedModel


class PickedRelay:
    """A `Relay`, and the `Observer` of what its instance answers."""

    def __init__(
        self,
        r: int,
        exchange: PickedExchange,
        body: bytes,
        request: Request,
        model: ServedModel,
        clock: Callable[[], float],
        headers: Sequence[Header],
        passage: Passage,
    ) -> None:
        self.r = r
        self.request = request
        self.passage = passage
        self.at = Whereabouts(passage, clock)
        self.receipt: tuple[Header, ...] = ()
        self._exchange = exchange
        self._body = body
        self._model = model
        self._clock = clock
        self._headers = headers
        self._event_tokens = ONE_EACH
        self._reply = Reply(passage.ask, is_streamed=request.is_streamed)
        self._tally = Tally(passage, request)
        exchange.on_gone = lambda: model.left(self)

    @property
    def has_started(self) -> bool:
        """See `Relay`."""
        return self._exchange.has_begun

    def settle(self) -> None:
        """See `Relay`: it never lags behind."""

    @property
    def is_committed(self) -> bool:
        """See `Relay`."""
        return self._exchange.pick is not None

    @property
    def told(self) -> Sequence[Header]:
        """See `Observer`."""
        return (*self.passage.told, *self.receipt)

    def trace(self, context: Sequence[Header]) -> None:
        """See `Relay`."""
        self._headers = with_context(self._headers, context)

    def send(self, errand: Errand) -> None:
        """See `Relay`."""
        self.at.go_to(errand.i)
        self._event_tokens = errand.event_tokens
        self._reply = Reply(self.passage.ask, None, errand.event_tokens, is_streamed=self.request.is_streamed)
        body = self._body if errand.told is None else body_with_slo(self._body, self.passage.ask, errand.told)
        self._exchange.send_to(Pick(errand.origin, [*self._headers, *errand.credentials], body, self))

    def prefill(self, errand: Errand) -> None:
        """See `Relay`."""
        raise AssertionError("a model that prefills apart is not picked for, see `unpickable`")

    def take_back(self) -> bool:
        """See `Relay`: it stays."""
        return False

    def lose_instance(self) -> None:
        """See `Relay`."""
        self.on_failure(removed(started=self.has_started))

    def answer(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """See `Relay`."""
        self._exchange.respond(status, [*headers, *self.passage.told], body)

    def break_off(self) -> None:
        """See `Relay`."""
        self._exchange.abort()

    def on_head(self, status: int, headers: list[Header]) -> None:
        """See `Observer`."""
        self._reply.begin(status, headers)

    def on_data(self, data: bytes) -> None:
        """See `Observer`."""
        if not self._reply.is_stream:
            self._reply.hold(data)
            return
        tokens = self._reply.count(data)
        if tokens:
            self._count(tokens)

    def on_end(self) -> None:
        """See `Observer`."""
        self._exchange.end()
        status, passage = self._reply.status, self.passage
        if self._reply.is_stream:
            said = self._reply.cut()
            is_whole = bool(passage.tokens) and not (self._reply.has_failed or is_broken(said))
            if stated := completion_tokens(said):
                has_turned = self._tally.true_up(stated, said, self._reply.counter, self._event_tokens)
                if has_turned and self._model.bypass is not None:
                    self._model.bypass.recount()
        else:
            said = self._reply.held
            is_whole = status == 200 and not is_broken(said)
            if is_whole:
                self._count(completion_tokens(said) or 1)
        if is_whole:
            passage.prompt_tokens = prompt_tokens(said)
            self._model.ended(self, self._tally.answer_tokens)
        elif status == 200 or may_do_better(status):
            self._model.failed(self, 500 if status == 200 else status)
        else:
            self._model.rejected(self, status)

    def on_failure(self, failure: Failure) -> None:
        """See `Observer`."""
        self._model.failed(self, failure)
        if self.has_started:
            self.break_off()

    def _count(self, tokens: int) -> None:
        now_s = self._clock()
        self._tally.add(tokens, now_s, self._reply.counter)
        if self.request.shows_tokens:
            self._model.saw_tokens(self.r, tokens, now_s)
