"""How many tokens an engine puts into one event, where its events do not say: learned from the streams that ended.

An engine with vLLM's `--stream-interval 8`, or one that speculates, sends several tokens at once. The `usage` at the
end of a stream tells how many there were, its events how many times the engine has spoken; most clients don't ask for
the one or the other, so what some streams teach holds for all of their instance. It is of the instance and not of the
model, as it follows from how one engine was started; and the first token comes alone, so it is left out.

The median of the last streams is believed: one that was held up somewhere has its tokens in fewer events than others.
Below `LEAST_RATIO` it is one token an event, exactly. Source: ours.
"""

from __future__ import annotations

from collections import deque
from statistics import median_low

NUM_HELD = 15  # streams that count: the last ones
LEAST_HELD = 3  # before so many have ended, an event is a token
LEAST_TOKENS = 16  # of a stream that teaches: its last event has what is left over
LEAST_RATIO, MOST_RATIO = 1.1, 256.0


class EventTokens:
    """The tokens of an event of one instance."""

    __slots__ = ("_held", "ratio")

    def __init__(self) -> None:
        self.ratio = 1.0  # tokens an event, from a stream's second one on
        self._held: deque[float] = deque(maxlen=NUM_HELD)

    def learn(self, tokens: int, events: int) -> None:
        """Take in a stream that ended well with so many tokens in so many events."""
        if tokens < LEAST_TOKENS or events < 2:
            return
        self._held.append((tokens - 1) / (events - 1))
        if len(self._held) >= LEAST_HELD:
            ratio = median_low(self._held)
            self.ratio = min(ratio, MOST_RATIO) if ratio >= LEAST_RATIO else 1.0


ONE_EACH = EventTokens()  # of an engine that is not known; nobody teaches it
