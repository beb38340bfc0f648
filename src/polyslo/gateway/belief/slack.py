"""How much of each TTFT is kept free for what decisions don't foresee: learned from first tokens, or fixed.

Decisions are made with a first token that is due earlier by the slack. By how much it came later than even that is what
the slack must hold, so the slack is a high quantile of it over the last requests; before that it is the configured
start. (Not of how much later than its forecast: more urgent prompts may overtake one as long as it is in time.)
Where nearly all first tokens come in time for the earlier moment no slack is needed.

What is learned reaches decisions through the TTFT of the next requests, which a journal has. Source: ours.
"""

from __future__ import annotations

import math

import numpy as np

QUANTILE = 0.995  # of first tokens that the slack covers
NUM_HELD = 1024  # requests that count: the last ones
LEAST_HELD = 128  # before so many were seen, the start holds
EVERY = 16  # requests between two looks at them
MOST_S = 0.1  # what is slower than that is no jitter, and slack is no remedy


class Slack:
    """The slack of one model."""

    def __init__(self, start_s: float, *, learns: bool = False) -> None:
        self.value_s = start_s
        self.learns = learns
        self._late_s = np.zeros(NUM_HELD)  # a ring: seconds from when it was due, less the slack, to when it was seen
        self._count = 0

    def hurried_s(self, ttft_s: float) -> float:
        """Return the TTFT that decisions are made with: less the slack, but at least half of it."""
        return max(ttft_s - self.value_s, 0.5 * ttft_s)

    def observe(self, foreseen_s: float, hurried_due_s: float, seen_s: float) -> None:
        """Take in a first token; one that was promised for no time (foreseen for infinity) tells nothing."""
        if not self.learns or not math.isfinite(foreseen_s):
            return
        self._late_s[self._count % NUM_HELD] = seen_s - hurried_due_s
        self._count += 1
        if self._count >= LEAST_HELD and self._count % EVERY == 0:
            held = self._late_s[: min(self._count, NUM_HELD)]
            self.value_s = min(max(0.0, float(np.quantile(held, QUANTILE))), MOST_S)
