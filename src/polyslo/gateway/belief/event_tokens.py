"""How many tokens an engine puts into one event, where its events do not say: learned from the streams that ended.

An engine with vLLM's `--stream-interval 8`, or one that speculates, sends several tokens at once. The `usage` at the
end of a stream tells how many there were, its events how many times the engine has spoken. Most clients ask for no
usage, so what some streams teach holds for all of their instance: of the instance and not of the model, as it follows
from how one engine was started. The first token comes alone, so it is left out; the last event has what is left over.

An interval is a whole number, and is believed where it fits two thirds of the last streams. Else it is a mean, of the
middle third of them: one that was held up somewhere has its tokens in fewer events than others. Below `LEAST_RATIO` it
is one token an event, exactly. Source: ours.
"""

from __future__ import annotations

from collections import deque

NUM_HELD = 15  # streams that count: the last ones
LEAST_HELD = 3  # before so many have ended, an event is a token
LEAST_TOKENS = 16  # of a stream that teaches
LEAST_RATIO, MOST_RATIO = 1.1, 256.0

Stream = tuple[int, int]  # tokens, events, of each but the first


class EventTokens:
    """The tokens of an event of one instance."""

    __slots__ = ("_held", "ratio")

    def __init__(self) -> None:
        self.ratio = 1.0  # tokens an event, from a stream's second one on
        self._held: deque[Stream] = deque(maxlen=NUM_HELD)

    @property
    def is_one_each(self) -> bool:
        """Whether an event is a token."""
        return self.ratio == 1.0

    def learn(self, tokens: int, events: int) -> bool:
        """Take in a stream that ended well; tell whether with it `is_one_each` has changed."""
        if tokens < LEAST_TOKENS or events < 2:
            return False
        was_one_each = self.is_one_each
        self._held.append((tokens - 1, events - 1))
        if len(self._held) >= LEAST_HELD:
            ratio = _interval(self._held) or _mean(self._held)
            self.ratio = min(ratio, MOST_RATIO) if ratio >= LEAST_RATIO else 1.0
        return self.is_one_each != was_one_each


ONE_EACH = EventTokens()  # of an engine that is not known; nobody teaches it


def _interval(held: deque[Stream]) -> float | None:
    """Return after how many tokens the engine speaks; None where no whole number says it of most streams."""
    tried = {
        interval: sum(_in_whole(tokens, interval) == events for tokens, events in held)
        for interval in {_in_whole(*stream) for stream in held}
    }
    best = max(tried, key=lambda interval: (tried[interval], -interval))
    return float(best) if 3 * tried[best] >= 2 * len(held) else None


def _mean(held: deque[Stream]) -> float:
    """Return the tokens an event of the middle third of streams; on average half of the last event is missing."""
    ordered = sorted(held, key=lambda stream: stream[0] / stream[1])
    third = len(ordered) // 3
    middle = ordered[third : len(ordered) - third]
    return sum(tokens - 0.5 for tokens, _ in middle) / sum(events - 0.5 for _, events in middle)


def _in_whole(tokens: int, parts: int) -> int:
    """Divide, and round up."""
    return -(-tokens // parts)
