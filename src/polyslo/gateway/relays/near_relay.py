"""One client's request on its way: to the instance that was decided on, and its bytes back.

Bytes go on as they come, unparsed; tokens are counted by looking at them. A stream's count is trued up at its end from
the `usage` that engines send. What the client was sent can't be taken back, so an instance that fails is replaced by
another only before the first token; engines send a stream's head long before it, so that is held until then.

Best-effort work is the exception: it must give its instance up at once. So its stream is read (`OneStream`), and
another instance goes on where it was taken away. The rest is held until its first token as a beginning is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from polyslo.gateway.belief.event_tokens import ONE_EACH
from polyslo.gateway.belief.usage import completion_tokens, prompt_tokens
from polyslo.gateway.relays.broken import is_broken
from polyslo.gateway.relays.continuation import continuing_body, watched_body
from polyslo.gateway.relays.counting import Reckoning, Tally
from polyslo.gateway.relays.errand import Errand
from polyslo.gateway.relays.handover import decode_body, prefill_body
from polyslo.gateway.relays.one_stream import OneStream
from polyslo.gateway.relays.passage import Header, Passage
from polyslo.gateway.relays.prefill_leg import PrefillLeg
from polyslo.gateway.relays.relay import Watcher, removed
from polyslo.gateway.relays.reply import Reply
from polyslo.gateway.relays.whereabouts import Whereabouts
from polyslo.gateway.requests.openai_errors import BadRequest
from polyslo.gateway.requests.request import Request
from polyslo.gateway.requests.slo_body import body_with_slo
from polyslo.gateway.requests.trace_context import with_context
from polyslo.wire.client import Call, Failure, Sink
from polyslo.wire.server import Exchange

if TYPE_CHECKING:
    from polyslo.gateway.relays.bypass import Detour

MALFORMED = (400, 422)  # how engines answer a body that they don't take
FIRST_PATIENCE = 2  # pieces before a stream goes past Python; twice as many each further time


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
        self.passage = passage
        self.at = Whereabouts(passage, clock)
        self.receipt: tuple[Header, ...] = ()  # of the last decision
        self.headers = headers  # that its engine sees
        self._watcher = watcher
        self._clock = clock
        self._call: Call | None = None
        self._idle_timeout_s = 0.0
        self._one: OneStream | None = None  # of a stream that another instance can go on with
        self._event_tokens = ONE_EACH
        self._reply = self._new_reply()
        self._tally = Tally(passage, request)
        self.has_started = False
        self._awaits_rest = False  # it was taken back, and its client has not been sent any more of it yet
        self.stays = False  # it was to be taken back, and can't be: for good, so that both ends of a link agree
        self._is_blocked = False  # its client takes less than it is sent
        self._was_blocked = False
        self._bypass_in = self._patience = FIRST_PATIENCE  # pieces
        self.detour: Detour | None = None
        exchange.on_gone = self._on_gone
        exchange.on_blocked = self._on_blocked

    def trace(self, context: Sequence[Header]) -> None:
        """See `Relay`."""
        self.headers = with_context(self.headers, context)

    def send(self, errand: Errand) -> None:
        """See `Relay`."""
        self.at.go_to(errand.i)
        self._idle_timeout_s = errand.idle_timeout_s
        self._event_tokens = errand.event_tokens
        self._ask(errand, self._body_for(errand), self)

    def prefill(self, errand: Errand) -> None:
        """See `Relay`."""
        self.at.begin_at(errand.i)
        self._ask(errand, prefill_body(self.passage.ask.body, errand.told), PrefillLeg(self))

    def prefilled(self, params: Mapping[str, Any]) -> None:
        """Its prefill has ended, and `params` say where its KV is: for its `PrefillLeg`."""
        self._call = None
        self.at.note_prefilled(params)
        self._watcher.prefilled(self)

    def prefill_refused(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Its prefill was answered with an error, which is the request's answer where nobody may do better."""
        self._call = None
        self.on_head(status, list(headers))
        self._reply.hold(body)
        self._end_whole(status, body)

    def settle(self) -> None:
        """See `Relay`."""
        if self.detour is not None:
            self.detour.settle()

    @property
    def count_kind(self) -> int:
        """See `Passenger`."""
        return self._reply.counter.kind

    def reckoning(self) -> Reckoning | None:
        """See `Passenger`."""
        return self._tally.reckoning(self.r, self._reply.counter)

    def on_events(self, events: int, told: int) -> None:
        """See `Passenger`."""
        tokens = self._reply.counter.went_past(events, told)
        if tokens:
            self._count(tokens)

    def on_counted(self, tokens: int, last_s: float, late_ratio: float) -> None:
        """See `Passenger`."""
        self._tally.add_counted(tokens, last_s, late_ratio, self._reply.counter)

    @property
    def is_committed(self) -> bool:
        """See `Relay`."""
        return self.has_started and not self._awaits_rest

    def take_back(self) -> bool:
        """See `Relay`."""
        if self.is_committed and not self._can_leave:
            self.stays = True
            return False
        self._drop()
        if self.is_committed and self._one is not None:
            self._one.leave()
            self._awaits_rest = True
        self._reply = self._new_reply()
        self.at.start_over()
        return True

    def lose_instance(self) -> None:
        """See `Relay`."""
        self._drop()
        self.on_failure(removed(started=self.has_started))

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
        reply = self._reply
        self._detach()
        self.exchange.respond(reply.status, [*reply.headers, *self.passage.told, *self.receipt], reply.held)

    def break_off(self) -> None:
        """See `Relay`."""
        self._drop()
        self._detach()
        self.exchange.abort()

    def on_head(self, status: int, headers: list[Header]) -> None:
        """See `Sink`: it goes on with the first token of a stream, else with the whole answer."""
        self._reply.begin(status, headers)

    def on_data(self, data: bytes) -> None:
        """See `Sink`."""
        reply = self._reply
        if self.is_committed:
            self._pass_on(*reply.follow(data))
            if self._call is not None and self._call.on_chunk is not None:
                self._note_piece()
            return
        tokens = reply.hold(data)
        if not reply.is_stream or not (tokens or reply.is_held_too_long):
            return
        if is_broken(reply.held, is_beginning=True):
            self._drop()  # another instance may do it, as long as nothing is sent
            self.on_failure(Failure("reset", "its engine broke off", started=True))
            return
        self._start(tokens)

    def on_chunk(self, data: bytes, chunk: bytes) -> None:
        """Take a piece of a stream under way that came as one chunk: as `on_data`, but it goes on with its framing."""
        tokens = self._reply.count(data)
        if tokens:
            self._count(tokens)
        self.exchange.write_framed(chunk)
        self._note_piece()

    def on_end(self) -> None:
        """See `Sink`."""
        self._call = None
        if self.is_committed:
            self._end_stream()
        elif self._reply.is_stream:
            self.on_failure(Failure("reset", "its stream ended without a token", started=True))
        else:
            self._end_whole(self._reply.status, self._reply.held)

    def on_failure(self, failure: Failure) -> None:
        """See `Sink`."""
        self._call = None
        if not self._watcher.failed(self, failure) and self.has_started:
            self.break_off()

    def _ask(self, errand: Errand, body: bytes, sink: Sink) -> None:
        """Send the client's request to an engine, with another body; what one answered before is forgotten."""
        exchange = self.exchange
        self._reply = self._new_reply()
        self._call = errand.origin.send(
            exchange.method,
            exchange.path + (b"?" + exchange.query if exchange.query else b""),
            [*self.headers, *errand.credentials],
            body,
            sink,
            head_timeout_s=errand.first_byte_timeout_s,
            idle_timeout_s=errand.first_byte_timeout_s,
        )

    def _start(self, tokens: int) -> None:
        """Begin the response, or its rest, with what was held."""
        reply = self._reply
        self._awaits_rest = False
        if not self.has_started:
            self.exchange.start(reply.status, [*reply.headers, *self.passage.told, *self.receipt])
            self.has_started = True
        self._watcher.started(self)
        call = self._call
        if call is not None:  # from now on silence is judged as between tokens; pausing sets the call's timer anew
            call.idle_timeout_s = self._idle_timeout_s
            call.pause()
            if not self._is_blocked:
                call.resume()
        self._pass_on(reply.held, tokens)
        if self._call is not None and self._one is None and self.exchange.takes_chunks:
            self._call.on_chunk = self.on_chunk

    def _note_piece(self) -> None:
        """Let tokens go past Python after some pieces; a stream that keeps coming back is tried less and less often."""
        self._bypass_in -= 1
        if self._bypass_in:
            return
        self._patience = self._bypass_in = 2 * self._patience
        bypass, call = self._watcher.bypass, self._call
        if bypass is not None and call is not None:
            bypass.open_soon(call, self.exchange, self)

    def _pass_on(self, data: bytes, tokens: int) -> None:
        """Count tokens, then send them: what is sent last may find that the client has left."""
        if tokens:
            self._count(tokens)
        self.exchange.write(data)

    def _end_stream(self) -> None:
        passage, left = self.passage, self._reply.finish()
        tail = self._reply.cut()
        self._detach()
        if self._reply.has_failed or not passage.tokens or is_broken(tail):
            self._watcher.failed(self, 500)
        else:
            if stated := completion_tokens(tail):
                # one that was blocked teaches nothing: its engine may have put together what nobody took
                learns = not self._was_blocked and self._one is None
                taught = self._event_tokens if learns else None
                has_turned = self._tally.true_up(stated, tail, self._reply.counter, taught)
                if has_turned and self._watcher.bypass is not None:
                    self._watcher.bypass.recount()
            passage.prompt_tokens = self._reply.prompt_tokens
            self._watcher.ended(self, self._tally.answer_tokens)
        if left:
            self.exchange.write(left)
        self.exchange.end()

    def _end_whole(self, status: int, body: bytes) -> None:
        passage = self.passage
        if self.has_started:  # a rest's: its client can't be told a status
            if not self._watcher.failed(self, status):
                self.break_off()
            return
        is_doubted = self._one is not None and status in MALFORMED  # it may be what was asked for besides
        self.passage.is_resumable &= not is_doubted
        if is_doubted or may_do_better(status) or (status == 200 and is_broken(body)):
            if self._watcher.failed(self, 500 if status == 200 else status):
                return
        elif status != 200:
            self._watcher.rejected(self, status)
        else:
            self._count(completion_tokens(body) or 1)
            passage.prompt_tokens = prompt_tokens(body)
            self._watcher.ended(self, self._tally.answer_tokens)
        self.let_through()

    def _count(self, tokens: int) -> None:
        """Count tokens, and hold them against their deadline."""
        now_s = self._clock()
        self._tally.add(tokens, now_s, self._reply.counter)
        if self.request.shows_tokens:
            self._watcher.saw_tokens(self.r, tokens, now_s)

    def _on_gone(self) -> None:
        self._drop()
        self._detach()
        self._watcher.left(self)

    def _on_blocked(self, is_blocked: bool) -> None:
        self._is_blocked = is_blocked
        self._was_blocked |= is_blocked
        if self._call is None:
            return
        if is_blocked:
            self._call.pause()
        else:
            self._call.resume()

    def _new_reply(self) -> Reply:
        return Reply(self.passage.ask, self._one, self._event_tokens, is_streamed=self.request.is_streamed)

    @property
    def _can_leave(self) -> bool:
        """Whether another instance can go on with what its client has been sent."""
        return self._one is not None and not self.stays and self._one.said.can_go_on

    def _body_for(self, errand: Errand) -> bytes:
        """Return what an engine is asked for."""
        ask, told, kv_params = self.passage.ask, errand.told, self.at.kv_params
        if self._one is not None and self._awaits_rest:
            self._one.forget_rest()
            return continuing_body(ask, self._one.said, told)
        self._one = None
        if errand.is_best_effort and self.passage.is_resumable and kv_params is None:
            with suppress(BadRequest):  # nested too deep to be written again: it goes as it came, and stays
                watched = watched_body(ask, told)
                self._one = OneStream(ask)
                return watched
        body = self.body if told is None else body_with_slo(self.body, ask, told)
        return body if kv_params is None else decode_body(body, kv_params)

    def _drop(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.abort()

    def _detach(self) -> None:
        self.exchange.on_gone = self.exchange.on_blocked = None
