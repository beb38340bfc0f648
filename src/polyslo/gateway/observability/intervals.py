"""The time between tokens, sampled: what a metric of every token would tell, at a cost that tokens don't have.

Once a second some streams of each instance are looked at; what came since the last look gives their mean time between
tokens. A stream that stands still is looked at again until it goes on, so that a long silence counts as one.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from polyslo.gateway.relays.relay import Relay
from polyslo.gateway.served_model import ServedModel

MOST_STREAMS = 256  # of a model, looked at in one second


class TokenIntervals:
    """Tells `observe` of times between tokens, in seconds."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._seen: dict[Relay, tuple[int, float]] = {}  # tokens and the last one's time, when last looked at

    def look(self, model: ServedModel) -> None:
        """Look at a model's streams."""
        seen, self._seen = self._seen, {}
        share = max(1, MOST_STREAMS // max(1, len(model.instances)))
        for instance in model.instances:
            for relay in islice(instance.running, share):
                if len(self._seen) == MOST_STREAMS:
                    return
                relay.settle()
                if relay.passage.tokens and relay.request.shows_tokens:
                    self._seen[relay] = self._look_at(relay, seen.get(relay))

    def _look_at(self, relay: Relay, before: tuple[int, float] | None) -> tuple[int, float]:
        """Return what is remembered of a stream."""
        tokens, last_s = relay.passage.tokens, relay.passage.last_token_s
        if before is not None:
            if tokens <= before[0]:  # it stands still
                return before
            self._observe((last_s - before[1]) / (tokens - before[0]))
        return tokens, last_s
