"""How many tokens a prompt has, before any engine has counted them: learned online for each model.

Engines tell every finished request's prompt tokens (`usage.prompt_tokens`); the ratio of a prompt's size to that is
learned as a ratio of two sums that fade, so long prompts, where an error costs most, weigh most, and a chat
template's share is in it. With the model's tokenizer prompts are counted, and what its template adds to each message
is learned. Prompts given as token ids are exact. Source: ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Protocol

from polyslo.errors import ConfigError
from polyslo.gateway.requests.body import Ask

BYTES_PER_TOKEN = 4.0  # before anything was learned: English text, and not far off for code
PRIOR_TOKENS = 2048.0  # how much that start counts for
FADE_RATIO = 0.99  # what a request leaves of all before it: about the last hundred count
MIN_RATIO, MAX_RATIO = 0.25, 4.0  # of the start value: one absurd report must not spoil the estimate
TOKENIZED_BYTES = 2048  # of a prompt: of longer ones samples are counted, as tokenizing holds up every other request
NUM_SAMPLES, SAMPLE_CHARS = 8, 256
LEARN_EVERY = 16  # requests, once as many were learned from: to learn is to tokenize again
TEMPLATE_WEIGHT = 0.1  # of one request in what a template adds to each message
MOST_ADDED_TOKENS = 1024  # by a template to a message, or a tool's description: more is an absurd report


class Tokenizer(Protocol):
    """What is used of `tokenizers.Tokenizer`."""

    def count(self, text: str) -> int:
        """Return a text's number of tokens."""


class Estimate(Protocol):
    """Foresees prompt tokens; keep one for each kind, chat and completions, of each model."""

    def tokens(self, ask: Ask) -> int:
        """Return the tokens of all prompts of a request, at least 1."""

    def learn(self, ask: Ask, prompt_tokens: int) -> None:
        """Take in what an engine counted."""


class TokenEstimate:
    """Prompt tokens by their bytes."""

    def __init__(self) -> None:
        self._tokens = PRIOR_TOKENS  # faded sums over finished requests
        self._size = PRIOR_TOKENS * BYTES_PER_TOKEN

    @property
    def size_per_token(self) -> float:
        """Bytes per token that engines count."""
        return self._size / self._tokens

    def tokens(self, ask: Ask) -> int:
        """Return the tokens of all prompts of a request, at least 1; exact for token ids."""
        if not ask.prompt_bytes:
            return max(1, ask.prompt_token_ids)
        return max(1, ask.prompt_token_ids + round(ask.prompt_bytes / self.size_per_token))

    def learn(self, ask: Ask, prompt_tokens: int) -> None:
        """Take in what an engine counted."""
        if not _teaches(ask, prompt_tokens):
            return
        size = float(ask.prompt_bytes)
        tokens = min(max(prompt_tokens, size / (BYTES_PER_TOKEN * MAX_RATIO)), size / (BYTES_PER_TOKEN * MIN_RATIO))
        self._tokens = FADE_RATIO * self._tokens + tokens
        self._size = FADE_RATIO * self._size + size


class TokenCount:
    """Prompt tokens by the model's tokenizer, and what the model's template adds."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._num_finished = 0
        self._num_learned = 0
        self.added_tokens = 0.0  # to each message, or prompt

    def tokens(self, ask: Ask) -> int:
        """Return the tokens of all prompts of a request, at least 1; exact for token ids."""
        if not ask.prompt_bytes:
            return max(1, ask.prompt_token_ids)
        counted = measure(self._tokenizer, ask.texts(), ask.prompt_bytes)
        return max(1, ask.prompt_token_ids + round(counted + self.added_tokens * num_messages(ask)))

    def learn(self, ask: Ask, prompt_tokens: int) -> None:
        """Take in what an engine counted, where all of the prompt can be counted here too."""
        self._num_finished += 1
        is_due = self._num_learned < LEARN_EVERY or self._num_finished % LEARN_EVERY == 0
        if not is_due or not _teaches(ask, prompt_tokens) or ask.prompt_bytes > TOKENIZED_BYTES:
            return
        added = (prompt_tokens - measure(self._tokenizer, ask.texts(), ask.prompt_bytes)) / num_messages(ask)
        added = min(max(0.0, added), MOST_ADDED_TOKENS)
        self._num_learned += 1
        weight = max(TEMPLATE_WEIGHT, 1.0 / self._num_learned)  # the first ones count alike
        self.added_tokens += weight * (added - self.added_tokens)


def num_messages(ask: Ask) -> int:
    """Return how many messages a template puts together, or prompts."""
    messages = ask.body.get("messages") if ask.is_chat else None
    return max(1, len(messages) if isinstance(messages, list) else ask.num_prompts)


def _teaches(ask: Ask, prompt_tokens: int) -> bool:
    """Prompts of ids teach nothing, those with images the wrong thing."""
    return bool(ask.prompt_bytes) and not ask.num_media and not ask.prompt_token_ids and prompt_tokens > 0


def measure(tokenizer: Tokenizer, texts: Iterable[str], total_bytes: int) -> float:
    """Return the tokens of texts of `total_bytes`: counted, or where they are long estimated from even samples."""
    if total_bytes <= TOKENIZED_BYTES:
        return float(sum(tokenizer.count(text) for text in texts))
    every, counted, counted_bytes = total_bytes / NUM_SAMPLES, 0, 0
    begin, wanted = 0.0, 0.5 * (every - SAMPLE_CHARS)  # of this text in all of them; of the next sample
    for text in texts:
        while wanted < begin + len(text):
            at = max(0, int(wanted - begin))
            part = text[at : at + SAMPLE_CHARS]
            counted += tokenizer.count(part)
            counted_bytes += len(part.encode())
            wanted += every
        begin += len(text)
    return counted * total_bytes / max(1, counted_bytes)


def load_tokenizer(path: str) -> Tokenizer:
    """Load a `tokenizer.json`. Raises `ConfigError` where the package is missing or the file is no tokenizer."""
    try:
        module = import_module("tokenizers")
    except ImportError as error:
        raise ConfigError(
            f"tokenizer {path}: needs the package tokenizers, which is not installed; "
            "pip install 'polyslo[tokenizer]', or leave tokenizer out to estimate from bytes"
        ) from error
    try:
        return _Counting(module.Tokenizer.from_file(path))
    except Exception as error:  # the package raises a bare Exception for everything
        raise ConfigError(f"tokenizer {path}: must be a tokenizer.json, got {error}; check the path") from error


class _Counting:
    """A tokenizer of the package, of which only the count is wanted."""

    def __init__(self, tokenizer: object) -> None:
        self._tokenizer = tokenizer

    def count(self, text: str) -> int:
        """Return a text's number of tokens, without the special ones, which the template adds."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)  # type: ignore[attr-defined]


def estimates(tokenizer: str | None) -> tuple[Estimate, Estimate]:
    """Return a model's estimates, of completions and of chats; `tokenizer` is the path of one, or None."""
    if tokenizer is None:
        return TokenEstimate(), TokenEstimate()
    counts = load_tokenizer(tokenizer)
    return TokenCount(counts), TokenCount(counts)
