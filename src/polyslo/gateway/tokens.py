"""How many tokens a prompt has, before any engine has counted them: learned online for each model.

Engines tell every finished request's prompt tokens (`usage.prompt_tokens`); the ratio of a prompt's size to that is
learned as a ratio of two sums that fade, so long prompts, where an error costs most, weigh most, and a chat
template's share is in it. The size is in UTF-8 bytes, or in tokens of a given tokenizer, which then only the
template's share is missing from. Prompts given as token ids are exact. Source: ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Protocol

from polyslo.errors import ConfigError
from polyslo.gateway.body import Ask

BYTES_PER_TOKEN = 4.0  # before anything was learned: English text, and not far off for code
PRIOR_TOKENS = 2048.0  # how much that start counts for
FADE_RATIO = 0.99  # what a request leaves of all before it: about the last hundred count
MIN_RATIO, MAX_RATIO = 0.25, 4.0  # of the start value: one absurd report must not spoil the estimate
TOKENIZED_BYTES = 32_768  # of a prompt; the rest is taken to be alike, as tokenizing holds up every other request


class Tokenizer(Protocol):
    """What is used of `tokenizers.Tokenizer`."""

    def count(self, text: str) -> int:
        """Return a text's number of tokens."""


class TokenEstimate:
    """The prompt tokens of one model's requests; keep one for each kind, chat and completions, of each model."""

    def __init__(self, tokenizer: Tokenizer | None = None) -> None:
        self._tokenizer = tokenizer
        self._start = BYTES_PER_TOKEN if tokenizer is None else 1.0
        self._tokens = PRIOR_TOKENS  # faded sums over finished requests
        self._size = PRIOR_TOKENS * self._start

    @property
    def size_per_token(self) -> float:
        """Bytes, or the tokenizer's tokens, per token that engines count."""
        return self._size / self._tokens

    def tokens(self, ask: Ask) -> int:
        """Return the tokens of all prompts of a request, at least 1; exact for token ids."""
        if not ask.prompt_bytes:
            return max(1, ask.prompt_token_ids)
        return max(1, ask.prompt_token_ids + round(self._measure(ask) / self.size_per_token))

    def learn(self, ask: Ask, prompt_tokens: int) -> None:
        """Take in what an engine counted. Prompts of ids teach nothing, those with images the wrong thing."""
        if not ask.prompt_bytes or ask.num_media or ask.prompt_token_ids or prompt_tokens <= 0:
            return
        size = self._measure(ask)
        tokens = min(max(prompt_tokens, size / (self._start * MAX_RATIO)), size / (self._start * MIN_RATIO))
        self._tokens = FADE_RATIO * self._tokens + tokens
        self._size = FADE_RATIO * self._size + size

    def _measure(self, ask: Ask) -> float:
        if self._tokenizer is None:
            return float(ask.prompt_bytes)
        return measure(self._tokenizer, ask.texts(), ask.prompt_bytes)


def measure(tokenizer: Tokenizer, texts: Iterable[str], total_bytes: int) -> float:
    """Return the tokens of texts of `total_bytes`: counted up to `TOKENIZED_BYTES`, the rest taken to be like that."""
    counted, counted_bytes = 0, 0
    for text in texts:
        part = text[: TOKENIZED_BYTES - counted_bytes]
        counted += tokenizer.count(part)
        counted_bytes += len(part.encode())
        if counted_bytes >= TOKENIZED_BYTES:
            break
    return float(counted) * max(1.0, total_bytes / max(1, counted_bytes))


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
