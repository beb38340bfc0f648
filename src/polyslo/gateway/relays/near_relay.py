"""One client's request on its way: to the instance that was decided on, and its bytes back.

Bytes go on as they come, unparsed; only events are counted. A stream's token count is trued up at its end from the
`usage` that engines send. What the client was sent can't be taken back, so an instance that fails is replaced by
another only before the first token; engines send a stream's head long before it, so that is held until then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from polyslo.gateway.belief.stream_tokens import TokenCounter
from polyslo.gateway.belief.usage import completion_tokens, prompt_tokens
from polyslo.gateway.relays.broken import ERROR, is_broken
from polyslo.gateway.relays.handover import decode_body, prefill_body
from polyslo.gateway.relays.passage import Header, Passage
from polyslo.gateway.relays.prefill_leg import PrefillLeg
from polyslo.gateway.relays.relay import Watcher
from polyslo.gateway.requests.request import Request
from polyslo.gateway.requests.slo_body import body_with_slo
from polyslo.wire.client import Call, Failure, Origin, end_to_end
from polyslo.wire.server import Exchange

OUR_HEADERS = frozenset({b"x-request-id", b"x-session-id"})  # of which the response has ours
TAIL_BYTES = 4096  # of a stream, where its usage stands
MOST_HELD_BYTES = 65_536  # of a stream that has shown no token


def may_do_better(status: int) -> bool:
    """Tell whether another instance may answer better than with this status: this one is full, or failed."""
    return status == 429 or status >= 500


class NearRelay:
    """A `Relay` of this process, from arrival to last byte; the `Sink` of what its instance answers."""

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
        self.prefill_instance: int | None = None  # which kept its KV, where that was apart from its instance
        self.kv_params: Mapping[str, Any] | None = None  # where its KV is, once it is prefilled
        self.prefilled_s = 0.0
        self.passage = passage
        self.receipt: tuple[Header, ...] = ()  # of the last decision
        self.headers = headers  # that its engine sees
        self._watcher = watcher
        self._clock = clock
        self._call: Call | None = None
        self._idle_timeout_s = 0.0
        self._counter = TokenCounter(passage.ask)
        self._due_s = request.arrival_s + request.ttft_s
        self._pieces: list[bytes] = []
        self._num_held_bytes = 0
        self._head: tuple[int, list[Header]] = (0, [])
        self._tail: list[bytes] = []  # the last pieces, cut to `TAIL_BYTES` now and then
        self._num_tail_bytes = 0
        self._has_failed = False
        self.has_started = False
        exchange.on_gone = self._on_gone
        exchange.on_blocked = self._on_blocked

    def send(
        self,
        i: int,
        origin: Origin,
        told: Mapping[str, float] | None,
        credentials: Sequence[Header] = (),
        *,
        first_byte_timeout_s: float,
        idle_timeout_s: float,
    ) -> None:
        """See `Relay`."""
        if self.kv_params is None:
            self._try_at(i)
        else:
            self.instance, self.prefill_instance = i, self.instance
        body = self.body if told is None else body_with_slo(self.body, self.passage.ask, told)
        self._let_go()
        self._idle_timeout_s = idle_timeout_s
        self._call = origin.send(
            self.exchange.method,
            self._target,
            [*self.headers, *credentials],
            body if self.kv_params is None else decode_body(body, self.kv_params),
            self,
            head_timeout_s=first_byte_timeout_s,
            idle_timeout_s=first_byte_timeout_s,
        )

    def prefill(
        self,
        i: int,
        origin: Origin,
        told: Mapping[str, float] | None,
        credentials: Sequence[Header] = (),
        *,
        timeout_s: float,
    ) -> None:
        """See `Relay`."""
        self._try_at(i)
        self._call = origin.send(
            self.exchange.method,
            self._target,
            [*self.headers, *credentials],
            prefill_body(self.passage.ask.body, told),
            PrefillLeg(self),
            head_timeout_s=timeout_s,
            idle_timeout_s=timeout_s,
        )

    def prefilled(self, params: Mapping[str, Any]) -> None:
        """Its prefill has ended, and `params` say where its KV is: for its `PrefillLeg`."""
        self._call = None
        self.kv_params = params
        self.prefilled_s = self._clock()
        self._watcher.prefilled(self)

    def prefill_refused(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Its prefill was answered with an error, which is the request's answer where nobody may do better."""
        self._call = None
        self.on_head(status, list(headers))
        self._pieces = [body]
        self._end_whole(status, body)

    @property
    def is_prefilled(self) -> bool:
        """See `Relay`."""
        return self.kv_params is not None

    def start_over(self) -> None:
        """See `Relay`."""
        self.instance = self.prefill_instance = self.kv_params = None

    def take_back(self) -> bool:
        """See `Relay`."""
        if self.has_started:
            return False
        self._drop()
        self._let_go()
        self.start_over()
        return True

    def lose_instance(self) -> None:
        """See `Relay`."""
        self._drop()
        self.on_failure(Failure("reset", "its instance was removed", started=self.has_started))

    def answer(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """See `Relay`."""
        self.turn_away(status, [*headers, *self.passage.told], body)

    def turn_away(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Answer with nothing but this: the request was never taken in."""
        self._drop()
        self._detach()
        self.exchange.respond(status, headers, body)

    def let_through(self) -> None:
        """Answer what the last instance did, though it is an error: no other will be asked."""
        status, headers = self._head
        self._detach()
        self.exchange.respond(status, [*headers, *self.passage.told, *self.receipt], b"".join(self._pieces))

    def break_off(self) -> None:
        """See `Relay`."""
        self._drop()
        self._detach()
        self.exchange.abort()

    def on_head(self, status: int, headers: list[Header]) -> None:
        """See `Sink`: it goes on with the first token of a stream, else with the whole answer."""
        status = status if status <= 599 else 502  # what HTTP has no room for can't be passed on
        self._head = status, [header for header in end_to_end(headers) if header[0] not in OUR_HEADERS]

    def on_data(self, data: bytes) -> None:
        """See `Sink`."""
        if self.has_started:
            self._pass_on(data, self._counter.feed(data))
            return
        self._pieces.append(data)
        if not self._is_stream:
            return
        self._num_held_bytes += len(data)
        tokens = self._counter.feed(data)
        if not tokens and self._num_held_bytes <= MOST_HELD_BYTES:
            return
        if is_broken(b"".join(self._pieces), is_beginning=True):
            self._drop()  # another instance may do it, as long as nothing is sent
            self.on_failure(Failure("reset", "its engine broke off", started=True))
            return
        self._start(tokens)

    def on_end(self) -> None:
        """See `Sink`."""
        self._call = None
        if self.has_started:
            self._end_stream()
        elif self._is_stream:
            self.on_failure(Failure("reset", "its stream ended without a token", started=True))
        else:
            self._end_whole(self._head[0], b"".join(self._pieces))

    def on_failure(self, failure: Failure) -> None:
        """See `Sink`."""
        self._call = None
        if not self._watcher.failed(self, failure) and self.has_started:
            self.break_off()

    @property
    def _target(self) -> bytes:
        return self.exchange.path + (b"?" + self.exchange.query if self.exchange.query else b"")

    def _try_at(self, i: int) -> None:
        self.instance, self.prefill_instance, self.kv_params = i, None, None
        self.passage.num_tries += 1
        self.passage.sent_s = self._clock()

    @property
    def _is_stream(self) -> bool:
        return self.request.is_streamed and self._head[0] == 200

    def _start(self, tokens: int) -> None:
        """Begin the response with what was held."""
        status, headers = self._head
        self.exchange.start(status, [*headers, *self.passage.told, *self.receipt])
        self.has_started = True
        self._watcher.started(self)
        call = self._call
        if call is not None:  # from now on silence is judged as between tokens; pausing sets the call's timer anew
            call.idle_timeout_s = self._idle_timeout_s
            call.pause()
            call.resume()
        held, self._pieces = b"".join(self._pieces), []
        self._pass_on(held, tokens)

    def _pass_on(self, data: bytes, tokens: int) -> None:
        """Count tokens, then send them: what is sent last may find that the client has left."""
        self._tail.append(data)
        self._num_tail_bytes += len(data)
        if self._num_tail_bytes > 3 * TAIL_BYTES // 2:
            self._cut_tail()
        if ERROR in data and is_broken(self._cut_tail()):
            self._has_failed = True
        elif tokens:
            self._count(tokens)
        self.exchange.write(data)

    def _cut_tail(self) -> bytes:
        tail = b"".join(self._tail)[-TAIL_BYTES:]
        self._tail, self._num_tail_bytes = [tail], len(tail)
        return tail

    def _end_stream(self) -> None:
        passage = self.passage
        self._detach()
        tail = self._cut_tail()
        if self._has_failed or not passage.tokens or is_broken(tail):
            self._watcher.failed(self, 500)
        else:
            passage.tokens = completion_tokens(tail) or passage.tokens
            passage.prompt_tokens = prompt_tokens(tail)
            self._watcher.ended(self, self._output_tokens)
        self.exchange.end()

    def _end_whole(self, status: int, body: bytes) -> None:
        passage = self.passage
        if may_do_better(status) or (status == 200 and is_broken(body)):
            if self._watcher.failed(self, 500 if status == 200 else status):
                return
        elif status != 200:
            self._watcher.rejected(self, status)
        else:
            self._count(completion_tokens(body) or 1)
            passage.prompt_tokens = prompt_tokens(body)
            self._watcher.ended(self, self._output_tokens)
        self.let_through()

    @property
    def _output_tokens(self) -> int:
        """How long each of its answers got."""
        return max(1, self.passage.tokens // self.request.num_sequences)

    def _count(self, tokens: int) -> None:
        """Count tokens, and hold them against their deadline."""
        now_s = self._clock()
        passage, request = self.passage, self.request
        if passage.tokens == 0:
            passage.first_token_s = now_s
        # Of tokens that come together the first is due first; an answer that comes whole is due with its last.
        judged = passage.tokens if request.is_streamed else passage.tokens + tokens - 1
        passage.tokens += tokens
        passage.last_token_s = now_s
        if now_s > self._due_s + judged // request.num_sequences * request.tpot_s:
            passage.is_late = True
        if request.shows_tokens:
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

    def _let_go(self) -> None:
        """Forget what an instance answered: another one will."""
        self._counter, self._pieces, self._num_held_bytes, self._head = TokenCounter(self.passage.ask), [], 0, (0, [])

    def _drop(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.abort()

    def _detach(self) -> None:
        self.exchange.on_gone = self.exchange.on_blocked = None
