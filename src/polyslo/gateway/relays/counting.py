"""The tokens that came of a request: counted, held against their deadlines, and trued up when its stream ends."""

from __future__ import annotations

import math
from typing import NamedTuple

from polyslo.gateway.belief.count_kinds import EVENTS
from polyslo.gateway.belief.event_tokens import EventTokens
from polyslo.gateway.belief.stream_tokens import TokenCounter
from polyslo.gateway.relays.passage import Passage
from polyslo.gateway.requests.request import Request


class Reckoning(NamedTuple):
    """All that is needed to go on counting a stream of one token an event."""

    r: int  # its request
    tokens: int  # so far
    events: int  # that were tokens, so far
    due_s: float  # when its first token was due
    tpot_s: float


class Tally:
    """What came of one request, kept in its `Passage`."""

    __slots__ = ("_due_s", "_late_ratio", "_passage", "_request")

    def __init__(self, passage: Passage, request: Request) -> None:
        self._passage = passage
        self._request = request
        self._due_s = math.inf if request.is_best_effort else request.arrival_s + request.ttft_s
        self._late_ratio = 0.0  # tokens an event with which none would have been late, where events don't say it

    @property
    def answer_tokens(self) -> int:
        """How long each of a request's answers got."""
        return max(1, self._passage.tokens // self._request.num_sequences)

    def add(self, tokens: int, now_s: float, counter: TokenCounter) -> None:
        """Count tokens that came now, and note whether they are late. `counter` told them from their stream's bytes."""
        passage, request = self._passage, self._request
        if passage.tokens == 0:
            passage.first_token_s = now_s
        # Of tokens that come together the first is due first; an answer that comes whole is due with its last.
        judged = passage.tokens if request.is_streamed else passage.tokens + tokens - 1
        passage.tokens += tokens
        passage.last_token_s = now_s
        if now_s > self._due_s + judged // request.num_sequences * request.tpot_s:
            passage.is_late = True
            self._late_ratio = max(self._late_ratio, self._timely_ratio(now_s, counter.num_before(tokens)))

    def reckoning(self, r: int, counter: TokenCounter) -> Reckoning | None:
        """Return what to go on from, where whatever counts next need not know more; see `add_counted`."""
        request, tokens = self._request, self._passage.tokens
        if not (tokens and counter.is_one_each and request.shows_tokens):
            return None
        return Reckoning(r, tokens, counter.num_events, self._due_s, request.tpot_s)

    def add_counted(self, tokens: int, last_s: float, late_ratio: float, counter: TokenCounter) -> None:
        """Add tokens, an event each, that were counted from its `reckoning` on, as `add` does it; the last at `last_s`.

        `late_ratio`: tokens an event with which none of them would have been late; 0 where none was.
        """
        passage = self._passage
        passage.tokens += tokens
        passage.last_token_s = last_s
        passage.is_late |= late_ratio > 0.0
        self._late_ratio = max(self._late_ratio, late_ratio)
        counter.num_events += tokens

    def true_up(self, stated: int, tail: bytes, counter: TokenCounter, event_tokens: EventTokens | None) -> bool:
        """Set the count to what the engine has stated at a stream's end, judge it by that, and teach it if asked to.

        Tells whether its engine's events, which were a token each, no longer are, or the other way round.
        """
        passage = self._passage
        passage.tokens = stated
        if self._request.num_sequences > 1:
            return False
        events = counter.num_events_of(tail)
        if passage.is_late and counter.kind == EVENTS and stated > events > 1:
            passage.is_late = self._late_ratio > (stated - 1) / (events - 1)
        return event_tokens is not None and event_tokens.learn(stated, events)

    def _timely_ratio(self, now_s: float, before: int) -> float:
        """Return how many tokens an event must have had for tokens that are late to be in time after all."""
        due_now = (now_s - self._due_s) / self._request.tpot_s  # which token is due by now
        return (due_now - 1.0) / (before - 1) if before > 1 else math.inf  # the first event has one, for sure
