"""The tokens of one stream and when they came: what iteration times are read from.

A decode gets one token an iteration, so its tokens number the iterations. A step of several tokens at once (a reader
that fell behind, an engine that streams in pairs) is known as a whole only: times are taken between arrivals and
divided by the tokens between them.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator

from polyslo.errors import InputError


class Track:
    """One request's arrivals. `arrival_s[k]` is when the answer reached `num_tokens_at[k]` tokens."""

    def __init__(self, input_tokens: int, sent_s: float) -> None:
        self.input_tokens = input_tokens
        self.sent_s = sent_s
        self.arrival_s: list[float] = []
        self.num_tokens_at: list[int] = []
        self.is_over = False
        self.failure: str | None = None
        self.abort: Callable[[], None] = _nothing
        self._waits: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def num_tokens(self) -> int:
        """Tokens so far."""
        return self.num_tokens_at[-1] if self.num_tokens_at else 0

    @property
    def kv_tokens(self) -> int:
        """KV tokens that the request holds."""
        return self.input_tokens + self.num_tokens

    @property
    def first_token_s(self) -> float:
        """When the first token came; there must have been one."""
        return self.arrival_s[0]

    def note(self, num_tokens: int, now_s: float) -> None:
        """Take note of tokens that came together."""
        self.num_tokens_at.append(self.num_tokens + num_tokens)
        self.arrival_s.append(now_s)
        self._wake()

    def end(self, failure: str | None = None) -> None:
        """Take note of the end; `failure` says why it was none."""
        self.is_over = True
        self.failure = failure
        self._wake()

    async def until(self, num_tokens: int) -> None:
        """Wait until so many tokens have come; raises `InputError` where they never will."""
        if self.num_tokens < num_tokens and not self.is_over:
            reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waits.append((num_tokens, reached))
            await reached
        if self.num_tokens < num_tokens:
            raise InputError(
                f"the endpoint ended an answer after {self.num_tokens} of at least {num_tokens} tokens: "
                f"{self.failure or 'it does not obey ignore_eos and min_tokens'}; measure an engine that nobody uses"
            )

    def close(self) -> None:
        """Take the request back; the engine hears of it at once."""
        if not self.is_over:
            self.abort()
            self.end("taken back")

    def tokens_nearest(self, at_s: float) -> int:
        """Return how many tokens there were with the arrival nearest to a time: a step's tokens come together."""
        return self.num_tokens_at[self._nearest(at_s)]

    def tokens_by(self, at_s: float) -> int:
        """Return how many tokens had come by a time."""
        k = bisect_right(self.arrival_s, at_s)
        return self.num_tokens_at[k - 1] if k else 0

    def block_steps_s(self, first: int, last: int, block: int) -> Iterator[float]:
        """Yield the mean time a token over blocks of `block` tokens, between tokens number `first` and `last`."""
        left = bisect_left(self.num_tokens_at, first)
        while left < len(self.num_tokens_at):
            right = bisect_left(self.num_tokens_at, self.num_tokens_at[left] + block)
            if right >= len(self.num_tokens_at) or self.num_tokens_at[right] > last:
                return
            tokens = self.num_tokens_at[right] - self.num_tokens_at[left]
            yield (self.arrival_s[right] - self.arrival_s[left]) / tokens
            left = right

    def steps_back_s(self, at_s: float, count: int) -> list[float]:
        """Return the last `count` gaps up to the arrival nearest to a time, the latest last.

        Fewer where the track does not reach so far back; gaps that brought several tokens are split evenly.
        """
        k = self._nearest(at_s)
        gaps: list[float] = []
        while k > 0 and len(gaps) < count:
            tokens = self.num_tokens_at[k] - self.num_tokens_at[k - 1]
            gaps += [(self.arrival_s[k] - self.arrival_s[k - 1]) / tokens] * tokens
            k -= 1
        return gaps[:count][::-1]

    def _nearest(self, at_s: float) -> int:
        k = bisect_left(self.arrival_s, at_s)
        if k == 0 or (k < len(self.arrival_s) and self.arrival_s[k] - at_s < at_s - self.arrival_s[k - 1]):
            return k
        return k - 1

    def _wake(self) -> None:
        left = []
        for num_tokens, reached in self._waits:
            if reached.done():
                continue
            if self.is_over or self.num_tokens >= num_tokens:
                reached.set_result(None)
            else:
                left.append((num_tokens, reached))
        self._waits = left


def _nothing() -> None:
    """Nobody has to be told."""
