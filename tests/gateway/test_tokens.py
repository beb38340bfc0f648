"""The estimate of prompt tokens, before and after engines have counted some."""

from __future__ import annotations

import sys
from types import ModuleType

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyslo.errors import ConfigError
from polyslo.gateway.belief.tokens import LEARN_EVERY, TOKENIZED_BYTES, TokenCount, TokenEstimate, load_tokenizer
from polyslo.gateway.requests.body import CHAT, COMPLETIONS, Ask, read_body


def ask_of(prompt: object) -> Ask:
    """Return a completions request."""
    return read_body(COMPLETIONS, orjson.dumps({"model": "m", "prompt": prompt}))


def text_of(num_bytes: int) -> Ask:
    """Return a request with a prompt of so many bytes."""
    return ask_of("x" * num_bytes)


class Words:
    """A tokenizer that counts words, and what it was given."""

    seen_chars = 0

    def count(self, text: str) -> int:
        """Count them."""
        self.seen_chars += len(text)
        return len(text.split())


def test_four_bytes_a_token_to_begin_with() -> None:
    """Before anything was learned; never less than one token."""
    estimate = TokenEstimate()
    assert estimate.tokens(text_of(4000)) == 1000
    assert estimate.tokens(text_of(1)) == 1
    assert estimate.tokens(text_of(0)) == 1


def test_token_ids_are_exact_and_teach_nothing() -> None:
    """Whatever was learned, ids are counted."""
    estimate = TokenEstimate()
    for _ in range(50):
        estimate.learn(text_of(1000), 500)
    ratio = estimate.size_per_token
    estimate.learn(ask_of([[1, 2], [3]]), 99)
    assert estimate.tokens(ask_of([[1, 2], [3]])) == 3
    assert estimate.size_per_token == ratio


@given(st.floats(1.5, 12.0), st.integers(200, 20_000))
def test_what_engines_count_is_learned(bytes_per_token: float, num_bytes: int) -> None:
    """After a few hundred requests the estimate is within 5%, for any language and length."""
    estimate = TokenEstimate()
    tokens = max(1, round(num_bytes / bytes_per_token))
    for _ in range(600):
        estimate.learn(text_of(num_bytes), tokens)
    assert estimate.tokens(text_of(num_bytes)) == pytest.approx(tokens, rel=0.05, abs=1)


def test_what_changes_is_followed() -> None:
    """Old requests fade: another kind of text is learned within a few hundred requests."""
    estimate = TokenEstimate()
    for tokens in [250] * 1000 + [500] * 500:
        estimate.learn(text_of(1000), tokens)
    assert estimate.tokens(text_of(1000)) == pytest.approx(500, rel=0.05)


@given(st.integers(-5, 10**12))
def test_one_absurd_count_spoils_nothing(tokens: int) -> None:
    """A report that can't be is taken as far as it could be."""
    estimate = TokenEstimate()
    for _ in range(100):
        estimate.learn(text_of(1000), 250)
    estimate.learn(text_of(1000), tokens)
    assert estimate.tokens(text_of(1000)) == pytest.approx(250, rel=0.06)


def test_images_teach_nothing() -> None:
    """Their tokens are in the engine's count and not in the text."""
    estimate = TokenEstimate()
    content = [{"type": "text", "text": "x" * 400}, {"type": "image_url", "image_url": {}}]
    ask = read_body(CHAT, orjson.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}))
    estimate.learn(ask, 5000)
    assert estimate.size_per_token == 4.0


def test_a_tokenizer_counts_and_the_template_is_learned() -> None:
    """What it misses, the template's share, is learned from what engines count."""
    estimate = TokenCount(Words())
    ask = ask_of("one two three " * 100)
    assert estimate.tokens(ask) == 300
    estimate.learn(ask, 340)
    assert estimate.tokens(ask) == 340
    for _ in range(60 * LEARN_EVERY):
        estimate.learn(ask, 360)
    assert estimate.tokens(ask) == 360


def test_a_template_adds_to_each_message() -> None:
    """A chat of two messages teaches what one of five has; short and long ones have the same added."""

    def chat(num_messages: int, words: int) -> Ask:
        messages = [{"role": "user", "content": "word " * words}] * num_messages
        return read_body(CHAT, orjson.dumps({"model": "m", "messages": messages}))

    estimate = TokenCount(Words())
    for words in (10, 50, 100):
        estimate.learn(chat(2, words), 2 * words + 2 * 7)
    assert estimate.tokens(chat(5, 20)) == 5 * 20 + 5 * 7
    estimate.learn(chat(1, 1000), 9)  # of which only samples can be counted here: it teaches nothing
    assert estimate.tokens(chat(5, 20)) == 5 * 20 + 5 * 7


def test_learning_tokenizes_seldom() -> None:
    """After the first requests one of some is counted again."""
    words, ask = Words(), ask_of("one two three")
    estimate = TokenCount(words)
    for _ in range(10 * LEARN_EVERY):
        estimate.learn(ask, 5)
    assert words.seen_chars <= 2 * (10 + LEARN_EVERY) * len("one two three")


def test_a_long_prompt_is_tokenized_in_part() -> None:
    """Samples of it speak for the rest: nobody waits for a prompt of a megabyte to be counted."""
    words = Words()
    assert TokenCount(words).tokens(ask_of("word " * 200_000)) == pytest.approx(200_000, rel=0.02)
    assert words.seen_chars == TOKENIZED_BYTES


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """And that it can be left out."""
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError) as caught:
        load_tokenizer("t.json")
    assert str(caught.value) == (
        "tokenizer t.json: needs the package tokenizers, which is not installed; "
        "pip install 'polyslo[tokenizer]', or leave tokenizer out to estimate from bytes"
    )


class _Encoded:
    def __init__(self, ids: list[int]) -> None:
        self.ids = ids


class _Package:
    """What is used of the package's Tokenizer."""

    @classmethod
    def from_file(cls, path: str) -> _Package:
        """Load it; the package raises a bare Exception for a file that is none."""
        if path != "good.json":
            raise Exception("No such file or directory (os error 2)")
        return cls()

    def encode(self, text: str, add_special_tokens: bool) -> _Encoded:
        """Give an id a letter."""
        return _Encoded([*map(ord, text)] + [0] * add_special_tokens)


def test_a_tokenizer_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Special tokens are not counted, the template adds them; a file that is none is named."""
    module = ModuleType("tokenizers")
    module.Tokenizer = _Package  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tokenizers", module)
    assert load_tokenizer("good.json").count("abc") == 3
    with pytest.raises(ConfigError) as caught:
        load_tokenizer("absent.json")
    assert str(caught.value) == (
        "tokenizer absent.json: must be a tokenizer.json, got No such file or directory (os error 2); check the path"
    )
