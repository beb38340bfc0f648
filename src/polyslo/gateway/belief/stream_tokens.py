"""How many tokens a piece of a stream shows, found by looking at its bytes: nothing is decoded.

Engines send an event a token, or several tokens in one: where they speculate, where they were told to speak less often
(vLLM's `--stream-interval`), where they have fallen behind. What the client asked for says which (`count_kinds`).
Three kinds of events are no token: the opening of a chat, which names the role and says nothing (vLLM and SGLang send
it just before the first token); its closing, where that says only that the limit was reached (SGLang, OpenAI; vLLM too
where a parser of tools has kept the last token, which is then missed; what ends by itself has made a last token that is
not shown); and the usage after the last one, which has no choices. Where nobody asked for usage and an engine sends it
all the same, it counts as a token until the end trues that up.

So events are looked at whole, and the beginning of one waits for its end; but not in a completion whose client asked
for no counts: there nothing is kept.
"""

from __future__ import annotations

import re

from polyslo.gateway.belief.count_kinds import EVENTS, LISTED, STATED
from polyslo.gateway.belief.event_tokens import ONE_EACH, EventTokens
from polyslo.gateway.belief.usage import completion_tokens, listed_tokens
from polyslo.gateway.requests.body import Ask
from polyslo.wire.sse import EventCounter

_OPENING = re.compile(rb'"role"\s*:.*"content"\s*:\s*(?:""|null)|"content"\s*:\s*(?:""|null).*"role"\s*:', re.DOTALL)
_MOST_OPENING_BYTES = 4096  # of the first event that are looked at: a prompt's token ids may follow
_LIMIT_REACHED = b'"length"'
_CLOSING = re.compile(rb'"delta"\s*:\s*\{(?:\s*"\w+"\s*:\s*null\s*,?)*\s*\}[^{}\n]*"finish_reason"\s*:\s*"length"')
_NO_CHOICES = b'"choices":[]'
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
_LONGEST_EVENT_BYTES = 16 << 20  # the first may have a prompt's token ids


class TokenCounter:
    """The tokens of one stream of one engine, whose events are as `event_tokens` says where they don't say it."""

    __slots__ = (
        "_ahead", "_awaits_opening", "_counts_usage", "_event_tokens", "_events", "_is_chat", "_is_whole",
        "_num_sequences", "_rest", "kind", "num_events",
    )  # fmt: skip

    def __init__(self, ask: Ask, event_tokens: EventTokens = ONE_EACH) -> None:
        self.kind = _kind(ask)
        self.num_events = 0  # that are tokens
        self._ahead = 0  # tokens counted, less those events
        self._event_tokens = event_tokens
        self._num_sequences = ask.num_sequences
        self._events = EventCounter()
        self._is_chat = self._awaits_opening = ask.is_chat
        self._counts_usage = ask.includes_usage or self.kind != EVENTS
        self._is_whole = self._is_chat or self._counts_usage  # whether events are looked at, whole
        self._rest = b""  # the beginning of an event that is coming

    @property
    def is_one_each(self) -> bool:
        """Whether each event is a token, unless it is one that is none."""
        return self.kind == EVENTS and self._event_tokens.is_one_each

    def feed(self, data: bytes) -> int:
        """Return how many tokens this piece shows."""
        if self._is_whole:
            data = self._whole(data)
        events = self._events.feed(data)
        if events and self._awaits_opening:
            events -= self._note_opening(data)
        if events and self._is_chat and self._is_whole and _LIMIT_REACHED in data:
            events = max(0, events - len(_CLOSING.findall(data)))
        if events and self._counts_usage and _NO_CHOICES in data:
            events = max(0, events - data.count(_NO_CHOICES))
        if self.kind == EVENTS:
            return self._estimate_last(data, events)
        return self._read(data, events)

    def went_past(self, events: int, told: int) -> int:
        """Return how many tokens events show of which was told what their kind tells: ids, or the count so far."""
        if self.kind == EVENTS:
            if not self._event_tokens.is_one_each:
                return self._estimate(events)
            self.num_events += events
            return events
        return self._add(events, told if self.kind == LISTED else max(0, told - self.num_events - self._ahead))

    def num_before(self, tokens: int) -> int:
        """Return how many events were tokens before those that have just shown so many."""
        return self.num_events - (tokens if self._event_tokens.is_one_each else 1)

    def num_events_of(self, tail: bytes) -> int:
        """Return how many events were tokens, of a stream with this end: a usage that nobody asked for was none."""
        return self.num_events - (0 if self._counts_usage else tail.count(_NO_CHOICES))

    def _read(self, data: bytes, events: int) -> int:
        """Count events that say how many tokens they carry, as far as they do."""
        if self.kind == LISTED:
            num_lists, num_ids = listed_tokens(data)
            return self._add(num_lists, num_ids) + self._estimate(events - num_lists)
        stated = completion_tokens(data)
        return self._estimate(events) if stated is None else self.went_past(events, stated)

    def _estimate_last(self, data: bytes, events: int) -> int:
        """Count events that don't say it, where one may be the last: that has what is left over, so at least one."""
        if self._event_tokens.is_one_each:
            self.num_events += events
            return events
        last = len(_FINISHED.findall(data)) + (0 if self._counts_usage else data.count(_NO_CHOICES))
        last = min(events, last)
        return self._estimate(events - last) + self._add(last, last)

    def _estimate(self, events: int) -> int:
        """Count events that don't say how many tokens they carry: at least one each."""
        ratio, first = self._event_tokens.ratio, self._num_sequences
        if ratio == 1.0 or events <= 0:
            return self._add(max(0, events), max(0, events))
        expected = first + (self.num_events + events - first) * ratio
        return self._add(events, max(events, round(expected) - self.num_events - self._ahead))

    def _add(self, events: int, tokens: int) -> int:
        self.num_events += events
        self._ahead += tokens - events
        return tokens

    def _whole(self, data: bytes) -> bytes:
        """Return the events that are whole with this piece."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if data[-2:] == b"\n\n":
            return data
        if b"\r" in data or len(data) > _LONGEST_EVENT_BYTES:  # its events don't end as JSON's can
            self.kind, self._is_whole = EVENTS, False
            return data
        end = data.rfind(b"\n\n")
        end = 0 if end < 0 else end + 2
        self._rest = data[end:]
        return data[:end]

    def _note_opening(self, data: bytes) -> int:
        """Take note of a chat's first event; return 1 if it is but its opening."""
        self._awaits_opening = False
        first, _, _ = data[:_MOST_OPENING_BYTES].partition(b"\n\n")
        return _OPENING.search(first) is not None


def _kind(ask: Ask) -> int:
    if ask.includes_usage and ask.num_sequences == 1 and ask.body["stream_options"].get("continuous_usage_stats"):
        return STATED  # of several answers each states its own
    return LISTED if ask.body.get("return_token_ids") else EVENTS
