"""What the emulated model reads and writes: a vocabulary of short words, and a rule that continues any prompt.

The rule is a stand-in for greedy decoding: the next token depends on all token ids before it and on nothing else.
So the same prompt gives the same text on every engine, and a stream that broke can be resumed with prompt and
output so far as the new prompt, as token ids or as text, and goes on identically. Sampling parameters change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from polyslo.compiled import compiled
from polyslo.core.randomness import next_state, uniform

_SYLLABLES = tuple(consonant + vowel for consonant in "bdlmnrsv" for vowel in "aeio")
WORDS = tuple(f" {first}{second}".encode() for first in _SYLLABLES for second in _SYLLABLES)  # by token id
END_ID = len(WORDS)  # ends an output, has no text
_PIECE = 64  # tokens drawn at a time
_ID_OF = {word.decode(): index for index, word in enumerate(WORDS)}
_WORD_CHARS = 5

TokenIds = npt.NDArray[np.uint64]


def text_ids(text: str, chars_per_token: int) -> TokenIds:
    """Return the token ids of a text: of pieces of `chars_per_token` characters, then of words of the vocabulary.

    Only those at the end are words, so that a text that was continued is read as the tokens that it was written in.
    """
    begin = _words_begin(text)
    words = [_ID_OF[text[k : k + _WORD_CHARS]] for k in range(begin, len(text), _WORD_CHARS)]
    return np.concatenate([_piece_ids(text[:begin], chars_per_token), np.array(words, dtype=np.uint64)])


def _words_begin(text: str) -> int:
    """Return where the words of the vocabulary begin that a text ends with."""
    begin = len(text)
    while text[max(0, begin - _WORD_CHARS) : begin] in _ID_OF:
        begin -= _WORD_CHARS
    return begin


def _piece_ids(text: str, chars_per_token: int) -> TokenIds:
    """Cut a text into pieces, the last one shorter; return an id for each."""
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    padding = -len(characters) % chars_per_token
    pieces = np.pad(characters, (0, padding)).reshape(-1, chars_per_token)
    folded = np.zeros(len(pieces), dtype=np.uint64)
    for column in range(chars_per_token):
        folded = folded * np.uint64(31) + pieces[:, column]
    return np.asarray(folded % np.uint64(END_ID), dtype=np.uint64)


def text_of(ids: list[int]) -> bytes:
    """Return the text of tokens, as bytes of ASCII; ids from elsewhere have the word of their remainder."""
    return b"".join(WORDS[i % END_ID] for i in ids if i != END_ID)


def read(ids: TokenIds) -> np.uint64:
    """Return the state of the model that has read a prompt."""
    return np.uint64(_read(ids))


def continuation(state: np.uint64) -> Iterator[int]:
    """Yield the tokens that follow, without end."""
    piece = np.empty(_PIECE, dtype=np.int64)
    while True:
        state = np.uint64(_write(state, piece))
        yield from piece.tolist()


def rank_of(state: np.uint64, seed: int) -> float:
    """Return a number in [0, 1) that belongs to a prompt: what is drawn with it is drawn alike everywhere."""
    return float(uniform(np.uint64(int(state) ^ 0x5851F42D4C957F2D * (seed + 1) % 2**64)))


@compiled
def _after(state: np.uint64, token: np.uint64) -> np.uint64:
    return np.uint64(next_state(state * np.uint64(0x2545F4914F6CDD1D) + token))


@compiled
def _read(ids: TokenIds) -> np.uint64:
    state = np.uint64(1)
    for token in ids:
        state = _after(state, token)
    return state


@compiled
def _write(state: np.uint64, piece: npt.NDArray[np.int64]) -> np.uint64:
    """Fill `piece` with the next tokens; return the state after them."""
    for index in range(len(piece)):
        token = np.uint64(uniform(state) * END_ID)
        piece[index] = token
        state = _after(state, token)
    return state
