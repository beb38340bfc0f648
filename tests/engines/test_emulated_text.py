"""What the emulated model reads and writes."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyslo.engines.emulated_text import END_ID, WORDS, continuation, rank_of, read, text_ids, text_of


def ids_of(prompt):
    """Return a prompt as the model reads it."""
    return np.array(prompt, dtype=np.uint64)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=200), st.integers(0, 150))
def test_an_output_resumed_from_its_tokens_goes_on_identically(prompt, cut):
    """Prompt and output so far, as a new prompt, have the same continuation; so has the same prompt."""
    whole = list(islice(continuation(read(ids_of(prompt))), 200))
    resumed = list(islice(continuation(read(ids_of(prompt + whole[:cut]))), 200 - cut))
    assert whole[cut:] == resumed
    assert all(0 <= token < END_ID for token in whole)


def test_different_prompts_have_different_outputs():
    """One other token anywhere in the prompt changes the output, and its rank."""
    prompt = list(range(50))
    other = [*prompt[:7], 8, *prompt[8:]]
    first, second = (list(islice(continuation(read(ids_of(p))), 20)) for p in (prompt, other))
    assert first != second
    assert rank_of(read(ids_of(prompt)), 0) != rank_of(read(ids_of(other)), 0)
    assert 0 <= rank_of(read(ids_of(prompt)), 0) != rank_of(read(ids_of(prompt)), 1) < 1


@given(st.text(max_size=40), st.integers(1, 9))
def test_a_text_has_a_token_for_every_few_characters(text, chars_per_token):
    """Its length is characters over `chars_per_token`, rounded up, whatever the characters are."""
    ids = text_ids(text, chars_per_token)
    assert len(ids) == -(-len(text) // chars_per_token)
    assert (ids < END_ID).all()


@pytest.mark.parametrize("pair", [("abcd", "abce"), ("abcdefgh", "efghabcd")])
def test_texts_that_differ_have_other_ids(pair):
    """Characters and their order count."""
    assert text_ids(pair[0], 4).tolist() != text_ids(pair[1], 4).tolist()


def test_words_are_short_and_plain():
    """Words are distinct and need no escapes in JSON; the token that ends an output has none."""
    assert len(set(WORDS)) == len(WORDS) == END_ID
    assert all(len(word) == 5 and word[1:].isalpha() and word[:1] == b" " for word in WORDS)
    assert text_of([0, END_ID, 1]) == WORDS[0] + WORDS[1]


@given(st.text(max_size=20), st.integers(1, 9), st.integers(1, 8))
def test_a_text_goes_on_as_its_token_ids_do(prompt, chars_per_token, num_tokens):
    """What the model has written is read as the tokens that it was written in, whatever came before."""
    ids = text_ids(prompt + "!", chars_per_token).tolist()
    made = list(islice(continuation(read(ids_of(ids))), 2 * num_tokens))
    longer = text_ids(prompt + "!" + text_of(made[:num_tokens]).decode(), chars_per_token)
    assert longer.tolist() == ids + made[:num_tokens]
    assert list(islice(continuation(read(longer)), num_tokens)) == made[num_tokens:]
