"""How many tokens a piece of a stream shows."""

from __future__ import annotations

import pytest

from polyslo.gateway.belief.stream_tokens import TokenCounter
from polyslo.gateway.requests.body import CHAT, COMPLETIONS, read_body

ROLE = b'data: {"id":"1","choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"prompt_token_ids":null}\n\n'
SPACED = b'data: {"choices": [{"delta": {"content": null, "role": "assistant"}}]}\n\n'
WORD = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'
EMPTY = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":""}}]}\n\n'
BOTH = b'data: {"id":"1","choices":[{"index":0,"delta":{"role":"assistant","content":"word"}}]}\n\n'
TEXT = b'data: {"id":"1","choices":[{"index":0,"text":"\\"role\\": \\"content\\":\\"\\""}]}\n\n'
USAGE = b'data: {"id":"1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


def _counter(*, chat=True, usage=False):
    more = b',"stream":true,"stream_options":{"include_usage":true}' if usage else b""
    prompt = b'"messages":[{"role":"user","content":"x"}]' if chat else b'"prompt":"x"'
    return TokenCounter(read_body(CHAT if chat else COMPLETIONS, b'{"model":"m",%b%b}' % (prompt, more)))


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([ROLE + WORD, WORD, WORD + DONE], [1, 1, 1]),
        ([ROLE, WORD], [0, 1]),
        ([SPACED + WORD, EMPTY], [1, 1]),
        ([BOTH, BOTH], [1, 1]),
        ([EMPTY, WORD], [1, 1]),
        ([b": ping\n\n", ROLE, b": ping\n\n" + WORD], [0, 0, 1]),
    ],
)
def test_the_opening_of_a_chat_is_no_token(pieces, expected):
    """It names the role and says nothing; a first event that says something is one, and so is an empty one later."""
    counter = _counter()
    assert [counter.feed(piece) for piece in pieces] == expected


def test_usage_at_the_end_is_no_token():
    """Where it was asked for: an event without choices."""
    counter = _counter(chat=False, usage=True)
    assert [counter.feed(piece) for piece in (TEXT, TEXT + USAGE + DONE)] == [1, 1]


def test_what_a_model_says_is_never_taken_for_an_opening():
    """A completion whose text looks like one counts."""
    counter = _counter(chat=False)
    assert counter.feed(TEXT) == 1


def test_events_may_be_cut_anywhere():
    """A byte at a time shows as many tokens as at once."""
    counter = _counter(usage=True)
    stream = ROLE + WORD * 3 + DONE
    assert sum(counter.feed(stream[k : k + 1]) for k in range(len(stream))) in (3, 4)  # the opening may be missed
