"""Prompts of a given number of tokens, as JSON text that is cut and not generated.

All prompts are slices of one text that is drawn before the run, behind a beginning that no other request has: an
engine's prefix cache, which matches from the beginning, finds nothing. Cutting takes a few microseconds whatever
the length, so that nothing has to be prepared far ahead of time and memory does not grow with the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polyslo.load.target import FIRST_TOKEN_ID

SLACK_TOKENS = 4096  # by which slices are shifted against each other
NUM_SEED_DIGITS = 3
_STEP = 2_654_435_761  # an odd number far from small multiples of SLACK_TOKENS: neighbours get distant slices
# Four characters with the space before them, and one token in the usual vocabularies.
WORDS = """
the and you for are but not all any can had her was one our out day get has him his how man new now old see two way who
boy did its let put say she too use big red run sun top sea map key ice hot car box bed bag air arm art end eye far few
"""


class Prompts:
    """Prompts from `pieces`, one a token, joined by `separator`; the same for the same seed."""

    def __init__(
        self, pieces: Sequence[bytes], separator: bytes, *, num_requests: int, longest_tokens: int, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        size = longest_tokens + SLACK_TOKENS
        texts = [pieces[k] for k in rng.integers(len(pieces), size=size)]
        self._pieces = pieces
        self._separator = separator
        self._text = separator.join(texts)
        lengths = np.fromiter((len(text) for text in texts), np.int64, size) + len(separator)
        self._start = np.concatenate(([0], np.cumsum(lengths)))  # [size + 1] where each piece begins, bytes
        self._num_digits = 1
        while len(pieces) ** self._num_digits < num_requests:
            self._num_digits += 1
        self._seed_digits = [pieces[k] for k in rng.integers(len(pieces), size=NUM_SEED_DIGITS)]

    @classmethod
    def of_ids(cls, vocab_size: int, **sizes: int) -> Prompts:
        """Prompts as lists of token ids below `vocab_size`, without the brackets."""
        return cls([b"%d" % i for i in range(FIRST_TOKEN_ID, vocab_size)], b",", **sizes)

    @classmethod
    def of_words(cls, **sizes: int) -> Prompts:
        """Prompts as words, without the quotes: about one token and four characters each."""
        return cls([word.encode() for word in WORDS.split()], b" ", **sizes)

    def cut(self, request: int, num_tokens: int) -> bytes:
        """Return the prompt of a request: its number, written in pieces, then a slice; 1 <= num_tokens <= longest."""
        beginning = self._digits(request)[:num_tokens]
        num_left = num_tokens - len(beginning)
        if num_left == 0:
            return self._separator.join(beginning)
        first = request * _STEP % SLACK_TOKENS
        start, end = self._start[first], self._start[first + num_left] - len(self._separator)
        return self._separator.join((*beginning, self._text[start:end]))

    def _digits(self, request: int) -> list[bytes]:
        """Write the request's number with `pieces` as digits, the lowest first, then some that tell the seed."""
        digits = []
        for _ in range(self._num_digits):
            request, digit = divmod(request, len(self._pieces))
            digits.append(self._pieces[digit])
        return digits + self._seed_digits
