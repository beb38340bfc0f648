"""The first of a request's two calls where prefill is apart from decode: nothing of its answer reaches the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyslo.gateway.relays.handover import params_of
from polyslo.wire.client import Failure, end_to_end

if TYPE_CHECKING:
    from polyslo.gateway.relays.near_relay import NearRelay
    from polyslo.gateway.relays.passage import Header

MOST_BYTES = 16 << 20  # of an answer with one token; block ids are some bytes each


class PrefillLeg:
    """The `Sink` of a prefill's answer; tells its `relay` where the KV is, or what went wrong."""

    def __init__(self, relay: NearRelay) -> None:
        self.relay = relay
        self._head: tuple[int, list[Header]] = (0, [])
        self._body = bytearray()

    def on_head(self, status: int, headers: list[Header]) -> None:
        """See `Sink`."""
        self._head = status if status <= 599 else 502, end_to_end(headers)

    def on_data(self, data: bytes) -> None:
        """See `Sink`."""
        if len(self._body) <= MOST_BYTES:
            self._body += data

    def on_end(self) -> None:
        """See `Sink`."""
        status, headers = self._head
        if status != 200:
            self.relay.prefill_refused(status, headers, bytes(self._body))
            return
        params = params_of(bytes(self._body))
        if params is None:
            detail = "its answer has no kv_transfer_params: start it with a KV connector (--kv-transfer-config)"
            self.relay.on_failure(Failure("malformed", detail, started=True))
        else:
            self.relay.prefilled(params)

    def on_failure(self, failure: Failure) -> None:
        """See `Sink`."""
        self.relay.on_failure(failure)
