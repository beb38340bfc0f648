"""One client's request on its way: to the instance that was decided on, and its bytes back.

Bytes go on as they come, unparsed; only events are counted. A stream's token count is trued up at its end from the
`usage` that engines send. What the client was sent can't be taken back, so an instance that fails is replaced by
another only before the first byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from polyslo.gateway.body import Ask
from polyslo.gateway.request import Request
from polyslo.gateway.usage import completion_tokens, prompt_tokens
from polyslo.wire.client import Call, Failure, Origin, end_to_end
from polyslo.wire.server import Exchange
from polyslo.wire.sse import EventCounter

Header = tuple[bytes, bytes]

RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504})  # of an engine: another one may do better
OUR_HEADERS = frozenset({b"x-request-id"})  # of which the response has ours
ERROR_EVENT = b'data: {"error"'
TAIL_BYTES = 4096  # of a stream, where its usage stands


@dataclass(slots=True)
class Passage:
    """A request's way through the gateway; times in seconds of the monotonic clock."""

    request_id: str
    ask: Ask
    tier_label: str  # as metrics and logs name its tier
    told: tuple[Header, ...] = ()  # headers of ours that its response has
    wants_receipt: bool = False
    sent_s: float = 0.0
    first_token_s: float = 0.0
    last_token_s: float = 0.0
    tokens: int = 0
    prompt_tokens: int | None = None  # as the engine counted them
    is_late: bool = False
    is_relegated: bool = False
    num_tries: int = 0


class Watcher(Protocol):
    """Whoever must know what becomes of relayed requests: the served model."""

    def saw_tokens(self, r: int, tokens: int) -> None:
        """Tokens came on a request's stream."""

    def ended(self, relay: Relay, output_tokens: int) -> None:
        """A request ended well."""

    def failed(self, relay: Relay, failure: Failure | int) -> bool:
        """An instance failed it (or answered with an error status); True when it will be tried again."""

    def left(self, relay: Relay) -> None:
        """The client is gone."""


class Relay:
    """A request, from its arrival until its last byte; the `Sink` of what its instance answers."""

    def __init__(
        self,
        r: int,
        exchange: Exchange,
        body: bytes,
        request: Request,
        watcher: Watcher,
        clock: Callable[[], float],
        headers: Sequence[Header],
        passage: Passage,
    ) -> None:
        self.r = r
        self.exchange = exchange
        self.body = body
        self.request = request
        self.instance: int | None = None
        self.passage = passage
        self._headers = headers
        self._watcher = watcher
        self._clock = clock
        self._call: Call | None = None
        self._counter = EventCounter()
        self._due_s = request.arrival_s + request.ttft_s
        self._pieces: list[bytes] = []
        self._head: tuple[int, list[Header]] | None = None
        self._tail = b""
        self._has_failed = False
        self.has_started = False
        exchange.on_gone = self._on_gone
        exchange.on_blocked = self._on_blocked

    def send(self, i: int, origin: Origin, body: bytes, *, head_timeout_s: float, idle_timeout_s: float) -> None:
        """Send the request to an instance; a second one is sent it afresh."""
        self.instance = i
        self.passage.num_tries += 1
        self.passage.sent_s = self._clock()
        self._counter, self._pieces, self._head = EventCounter(), [], None
        self._call = origin.send(
            self.exchange.method,
            self.exchange.path + (b"?" + self.exchange.query if self.exchange.query else b""),
            self._headers,
            body,
            self,
            head_timeout_s=head_timeout_s,
            idle_timeout_s=idle_timeout_s,
        )

    def take_back(self) -> bool:
        """Abort the instance's work, to be sent elsewhere later; False once the client has been sent some of it."""
        if self.has_started:
            return False
        self._drop()
        return True

    def answer(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Answer in the instance's place and be done."""
        self._drop()
        self._detach()
        self.exchange.respond(status, [*headers, *self.passage.told], body)

    def break_off(self) -> None:
        """End a response that can't be completed, so that the client sees it."""
        self._drop()
        self._detach()
        self.exchange.abort()

    def on_head(self, status: int, headers: list[Header]) -> None:
        """See `Sink`: streams go on at once, other answers when they are complete."""
        kept = [header for header in end_to_end(headers) if header[0] not in OUR_HEADERS] + list(self.passage.told)
        self._head = status, kept
        if self.request.is_streamed and status == 200:
            self.has_started = True
            self.exchange.start(status, kept)

    def on_data(self, data: bytes) -> None:
        """See `Sink`."""
        if not self.has_started:
            self._pieces.append(data)
            return
        tokens = self._counter.feed(data)
        self.exchange.write(data)
        self._tail = data if len(data) >= TAIL_BYTES else (self._tail + data)[-TAIL_BYTES:]
        if ERROR_EVENT in data:
            self._has_failed = True
        elif tokens:
            self._count(tokens)

    def on_end(self) -> None:
        """See `Sink`."""
        self._call = None
        if self.has_started:
            self._end_stream()
            return
        assert self._head is not None
        status, headers = self._head
        body = b"".join(self._pieces)
        if status in RETRIED_STATUSES and self._watcher.failed(self, status):
            return
        self._detach()
        self.exchange.respond(status, headers, body)
        if status == 200:
            self._count(completion_tokens(body) or 1)
            self.passage.prompt_tokens = prompt_tokens(body)
            self._watcher.ended(self, self.passage.tokens)
        elif status not in RETRIED_STATUSES:
            self._watcher.failed(self, status)

    def on_failure(self, failure: Failure) -> None:
        """See `Sink`."""
        self._call = None
        if self._watcher.failed(self, failure):
            return
        if self.has_started:
            self.break_off()

    def _end_stream(self) -> None:
        self._detach()
        self.exchange.end()
        if self._has_failed or not self.passage.tokens:
            self._watcher.failed(self, 500)
            return
        told = completion_tokens(self._tail)
        if told is not None:
            self.passage.tokens = told
        self.passage.prompt_tokens = prompt_tokens(self._tail)
        self._watcher.ended(self, self.passage.tokens)

    def _count(self, tokens: int) -> None:
        """Count tokens, and hold the last of them against its deadline."""
        now_s = self._clock()
        passage = self.passage
        if passage.tokens == 0:
            passage.first_token_s = now_s
        passage.tokens += tokens
        passage.last_token_s = now_s
        # Of tokens that come together the first is due first.
        if now_s > self._due_s + (passage.tokens - tokens) * self.request.tpot_s:
            passage.is_late = True
        if self.request.is_streamed:
            self._watcher.saw_tokens(self.r, tokens)

    def _on_gone(self) -> None:
        self._drop()
        self._detach()
        self._watcher.left(self)

    def _on_blocked(self, is_blocked: bool) -> None:
        if self._call is None:
            return
        if is_blocked:
            self._call.pause()
        else:
            self._call.resume()

    def _drop(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.abort()

    def _detach(self) -> None:
        self.exchange.on_gone = self.exchange.on_blocked = None
