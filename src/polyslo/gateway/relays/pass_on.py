"""A request that no decision is made about, passed on to an instance and back as it is, in a place like any other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from polyslo.gateway.requests.openai_errors import Refusal
from polyslo.wire.client import Failure, Origin, end_to_end
from polyslo.wire.fields import Headers
from polyslo.wire.server import Exchange

HEAD_TIMEOUT_S, IDLE_TIMEOUT_S = 600.0, 60.0


class PassOn:
    """The `Sink` of a passed-on request."""

    def __init__(
        self, exchange: Exchange, origin: Origin, headers: Headers, timeout_s: float, on_over: Callable[[], None]
    ) -> None:
        """It may take `timeout_s` from now on; `on_over` is called once, before its client can ask for more."""
        self._exchange = exchange
        self._on_over = on_over
        target = exchange.path + (b"?" + exchange.query if exchange.query else b"")
        self._call = origin.send(
            exchange.method, target, headers, exchange.body, self, head_timeout_s=HEAD_TIMEOUT_S,
            idle_timeout_s=IDLE_TIMEOUT_S,
        )  # fmt: skip
        self._expiry = asyncio.get_running_loop().call_later(max(0.0, timeout_s), self._expire)
        exchange.on_gone = self._on_gone
        exchange.on_blocked = self._on_blocked

    def on_head(self, status: int, headers: Headers) -> None:
        """See `Sink`."""
        kept = [header for header in end_to_end(headers) if header[0] != b"content-length"]
        self._exchange.start(status, kept)

    def on_data(self, data: bytes) -> None:
        """See `Sink`."""
        self._exchange.write(data)

    def on_end(self) -> None:
        """See `Sink`."""
        self._leave()
        self._exchange.end()

    def on_failure(self, failure: Failure) -> None:
        """See `Sink`."""
        self._fail(Refusal("failed", f"the instance did not answer: {failure.kind}"))

    def _expire(self) -> None:
        self._call.abort()
        self._fail(Refusal("timeout", "the request took longer than this gateway allows"))

    def _fail(self, refusal: Refusal) -> None:
        self._leave()
        if self._exchange.has_started:
            self._exchange.abort()
            return
        answer = refusal.answer()
        self._exchange.respond(answer.status, answer.headers, answer.body)

    def _on_gone(self) -> None:
        self._call.abort()
        self._leave()

    def _leave(self) -> None:
        self._expiry.cancel()
        self._exchange.on_gone = self._exchange.on_blocked = None
        self._on_over()

    def _on_blocked(self, is_blocked: bool) -> None:
        if is_blocked:
            self._call.pause()
        else:
            self._call.resume()
