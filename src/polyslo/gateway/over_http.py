"""Requests that this process carries itself, over HTTP from its clients to engines and back."""

from __future__ import annotations

from collections.abc import Sequence

from polyslo.gateway.front_model import FrontModel, Leave
from polyslo.gateway.relays.pass_on import PassOn
from polyslo.gateway.relays.passage import Header, Passage
from polyslo.gateway.relays.relay import Relay
from polyslo.gateway.requests.request import Request
from polyslo.wire.client import Origin
from polyslo.wire.fields import Headers
from polyslo.wire.server import Exchange


class OverHttp:
    """The `Carriage` of the main port."""

    def take_in(
        self,
        model: FrontModel,
        exchange: Exchange,
        body: bytes,
        request: Request,
        headers: Sequence[Header],
        passage: Passage,
    ) -> Relay | None:
        """See `Carriage`."""
        return model.admit(exchange, body, request, headers, passage)

    def pass_on(self, exchange: Exchange, origin: Origin, headers: Headers, timeout_s: float, leave: Leave) -> None:
        """See `Carriage`."""
        PassOn(exchange, origin, headers, timeout_s, leave)
