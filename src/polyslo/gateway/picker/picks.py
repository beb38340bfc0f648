"""Requests that another gateway carries: each is told where to go, and followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic

from polyslo.gateway.front_model import FrontModel, Leave
from polyslo.gateway.picker.picked_exchange import Pick, PickedExchange
from polyslo.gateway.picker.picked_relay import PickedRelay
from polyslo.gateway.relays.passage import Header, Passage
from polyslo.gateway.relays.relay import Relay
from polyslo.gateway.requests.openai_errors import Refusal
from polyslo.gateway.requests.request import Request
from polyslo.gateway.served_model import ServedModel
from polyslo.wire.client import Failure, Origin
from polyslo.wire.fields import Headers


class Picks:
    """The `Carriage` of the endpoint picker."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models

    def take_in(
        self,
        model: FrontModel,
        exchange: PickedExchange,
        body: bytes,
        request: Request,
        headers: Sequence[Header],
        passage: Passage,
    ) -> Relay | None:
        """See `Carriage`."""
        served = self._models[model.name]
        return served.take_in(lambda r: PickedRelay(r, exchange, body, request, served, monotonic, headers, passage))

    def pass_on(
        self, exchange: PickedExchange, origin: Origin, headers: Headers, timeout_s: float, leave: Leave
    ) -> None:
        """See `Carriage`; how long it may take is for whoever carries it to bound."""
        exchange.send_to(Pick(origin, headers, exchange.body, PassedOn(exchange, leave)))


class PassedOn:
    """The `Observer` of a request that nobody decided about: it has its place until it is over."""

    told: Sequence[Header] = ()

    def __init__(self, exchange: PickedExchange, leave: Leave) -> None:
        self._exchange = exchange
        self._leave = leave
        exchange.on_gone = leave

    def on_head(self, status: int, headers: list[Header]) -> None:
        """See `Observer`."""

    def on_data(self, data: bytes) -> None:
        """See `Observer`."""

    def on_end(self) -> None:
        """See `Observer`."""
        self._exchange.end()
        self._leave()

    def on_failure(self, failure: Failure) -> None:
        """See `Observer`: it could not even be sent."""
        answer = Refusal("failed", f"the instance can't be reached: {failure.detail}").answer()
        self._exchange.respond(answer.status, answer.headers, answer.body)
        self._leave()
