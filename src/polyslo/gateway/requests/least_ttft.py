"""The least TTFT that a model's instances can give a prompt, by its length: nobody can promise less.

Points of the profile's fastest prefill on an idle instance, a straight line from one to the next: off by less than a
percent with profiles that ship. Plain numbers, so that carriers, which know no profile, have them too.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

_STEP_RATIO = 1.1  # from one length to the next
_SHORTEST = 16


@dataclass(frozen=True, slots=True)
class LeastTtft:
    """Seconds by tokens, at rising lengths; empty where nothing is known."""

    tokens: tuple[int, ...] = ()
    times_s: tuple[float, ...] = ()

    @classmethod
    def of(cls, fastest_s: Callable[[int], float], longest: int) -> LeastTtft:
        """Sample a profile: `fastest_s` gives the seconds of a prompt of so many tokens, up to `longest`."""
        lengths = [_SHORTEST]
        while lengths[-1] < longest:
            lengths.append(min(longest, int(lengths[-1] * _STEP_RATIO) + 1))
        return cls(tuple(lengths), tuple(fastest_s(length) for length in lengths))

    def seconds(self, tokens: int) -> float:
        """Return the least TTFT of a prompt of so many tokens, seconds; 0 where nothing is known."""
        if not self.tokens:
            return 0.0
        k = min(max(1, bisect_left(self.tokens, tokens)), len(self.tokens) - 1)
        (low, high), (low_s, high_s) = self.tokens[k - 1 : k + 1], self.times_s[k - 1 : k + 1]
        return max(0.0, low_s + (tokens - low) / (high - low) * (high_s - low_s))
