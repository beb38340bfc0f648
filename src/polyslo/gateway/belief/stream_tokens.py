"""How many tokens a piece of a stream shows: its events, without those that carry none.

Engines send an event a token (several tokens in one, where they have fallen behind; the `usage` at the end tells).
Two kinds of events are no token: the opening of a chat, which names the role and says nothing (vLLM and SGLang send
it just before the first token), and the usage after the last one, which has no choices.
"""

from __future__ import annotations

import re

from polyslo.gateway.requests.body import Ask
from polyslo.wire.sse import EventCounter

_OPENING = re.compile(rb'"role"\s*:.*"content"\s*:\s*(?:""|null)|"content"\s*:\s*(?:""|null).*"role"\s*:', re.DOTALL)
_MOST_OPENING_BYTES = 4096  # of the first event that are looked at: a prompt's token ids may follow
_NO_CHOICES = b'"choices":[]'


class TokenCounter:
    """The tokens of one stream."""

    __slots__ = ("_awaits_opening", "_counts_usage", "_events")

    def __init__(self, ask: Ask) -> None:
        self._events = EventCounter()
        self._awaits_opening = ask.is_chat
        self._counts_usage = ask.includes_usage

    def feed(self, data: bytes) -> int:
        """Return how many tokens this piece shows."""
        tokens = self._events.feed(data)
        if self._awaits_opening and tokens:
            self._awaits_opening = False
            first, _, _ = data[:_MOST_OPENING_BYTES].partition(b"\n\n")
            tokens -= _OPENING.search(first) is not None
        if self._counts_usage and _NO_CHOICES in data:
            tokens = max(0, tokens - data.count(_NO_CHOICES))
        return tokens
