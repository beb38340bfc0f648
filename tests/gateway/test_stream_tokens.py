"""How many tokens a piece of a stream shows."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyslo.gateway.belief.count_kinds import EVENTS, LISTED, STATED
from polyslo.gateway.belief.event_tokens import LEAST_HELD, EventTokens
from polyslo.gateway.belief.stream_tokens import TokenCounter
from polyslo.gateway.belief.usage import completion_tokens, listed_tokens
from polyslo.gateway.requests.body import CHAT, COMPLETIONS, read_body

ROLE = b'data: {"id":"1","choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"prompt_token_ids":null}\n\n'
SPACED = b'data: {"choices": [{"delta": {"content": null, "role": "assistant"}}]}\n\n'
WORD = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'
EMPTY = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":""}}]}\n\n'
BOTH = b'data: {"id":"1","choices":[{"index":0,"delta":{"role":"assistant","content":"word"}}]}\n\n'
TEXT = b'data: {"id":"1","choices":[{"index":0,"text":"\\"role\\": \\"content\\":\\"\\""}]}\n\n'
# How SGLang 0.5.23 ends a chat, and OpenAI; then vLLM, whose last event is its last token.
CLOSINGS = [
    b'data: {"id":"1","choices":[{"index":0,"delta":{"reasoning_content":null},"logprobs":null,"finish_reason":"%b",'
    b'"matched_stop":null}]}\n\n',
    b'data: {"id": "1", "choices": [{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "%b"}]}\n\n',
]
LAST = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"%b"}]}\n\n'
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


@pytest.mark.parametrize("closing", [*CLOSINGS, LAST], ids=["sglang", "openai", "vllm"])
@pytest.mark.parametrize("usage", [False, True])
def test_the_closing_of_a_chat_is_a_token_if_one_was_made(closing, usage):
    """One that says nothing at the limit tells of none; what ended by itself has made a token that has no text."""
    at_limit, by_itself = closing % b"length", closing % b"stop"
    for stream, expected in ((ROLE + WORD * 3 + at_limit, 3 + (closing is LAST)), (ROLE + WORD * 3 + by_itself, 4)):
        stream += (USAGE if usage else b"") + DONE
        assert _counter(usage=usage).feed(stream) == expected
        cut = _counter(usage=usage)
        assert sum(cut.feed(stream[k : k + 1]) for k in range(len(stream))) == expected


def test_closings_never_take_tokens_back():
    """Of two answers at once, in lines that end otherwise, cut anywhere: a count never falls."""
    asked = {"model": "m", "n": 2, "stream": True, "messages": [{"role": "user", "content": "x"}]}
    both = CLOSINGS[0] % b"length"
    stream = (ROLE + ROLE + WORD * 4 + both + both + DONE).replace(b"\n", b"\r\n")
    for size in (1, 50, 99, 400, len(stream)):
        counter = TokenCounter(read_body(CHAT, orjson.dumps(asked)))
        counted = [counter.feed(stream[k : k + size]) for k in range(0, len(stream), size)]
        assert min(counted) >= 0
        assert 4 <= sum(counted) <= 8


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
    assert sum(counter.feed(stream[k : k + 1]) for k in range(len(stream))) == 3


# What a model may say so that its bytes look like a count: in a JSON text each quote is escaped.
TRICKS = [
    '"token_ids":[1,2,3]',
    '"completion_tokens":99}',
    "token_ids",
    "completion_tokens",
    '\\"token_ids":[7,7]',
    '"usage":{"completion_tokens":99,"x":1}',
    "\n\ndata: {}\n\n",
    '"finish_reason":"stop"',
    "]",
    ",,",
    "\\",
]
STATES = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
LISTS = {"return_token_ids": True}
USAGE_AT_END = {"stream_options": {"include_usage": True}}


def _event(event, *, spaced=False):
    written = orjson.dumps(event)
    for mark in (b'"token_ids":[', b'"completion_tokens":') if spaced else ():
        written = written.replace(mark, mark.replace(b":", b" : ").replace(b"[", b"[ "))
    return b"data: " + written + b"\n\n"


def _usage(made):
    return {"prompt_tokens": 3, "total_tokens": made + 3, "completion_tokens": made, "completion_tokens_details": None}


def _events(sizes, *, chat=False, lists=False, states=False, usage=False, texts=TRICKS, spaced=False):
    """Return the events of a stream with so many tokens in each, as vLLM writes them."""
    envelope, events, made = {"id": "c-1", "object": "chunk", "created": 1, "model": "m"}, [], 0
    if chat:
        opening = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
        prompt = {"prompt_token_ids": [5, 6, 7] if lists else None}
        events.append(envelope | opening | prompt | ({"usage": _usage(0)} if states else {}))
    for k, size in enumerate(sizes):
        made += size
        text, is_last = texts[k % len(texts)], k == len(sizes) - 1
        prompt = {"prompt_token_ids": [5, 6, 7] if lists else None}
        said = {"delta": {"content": text}} if chat else {"text": text, **prompt}
        choice = {"index": 0, **said, "logprobs": {"top_logprobs": [{"completion_tokens": -0.0, "token_ids": 0.0}]}}
        choice |= {"finish_reason": "stop" if is_last else None, "token_ids": list(range(size)) if lists else None}
        events.append(envelope | {"choices": [choice]} | ({"usage": _usage(made)} if states else {}))
    if usage or states:
        events.append(envelope | {"choices": [], "usage": _usage(made)})
    return [_event(event, spaced=spaced) for event in events]


def _counter_of(more, *, chat=False, event_tokens=None):
    prompt = {"messages": [{"role": "user", "content": "x"}]} if chat else {"prompt": "x"}
    ask = read_body(CHAT if chat else COMPLETIONS, orjson.dumps({"model": "m", "stream": True, **prompt, **more}))
    return TokenCounter(ask, event_tokens or EventTokens())


def _taught(tokens=81, events=11):
    event_tokens = EventTokens()
    for _ in range(LEAST_HELD):
        event_tokens.learn(tokens, events)
    return event_tokens


SIZES = [1, 3, 0, 1, 8, 2, 12, 5]
KINDS = pytest.mark.parametrize(
    ("more", "kind"),
    [(LISTS, LISTED), (STATES, STATED), (STATES | LISTS, STATED)],
    ids=["listed", "stated", "both"],
)


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("chat", [False, True])
@KINDS
def test_what_events_say_is_counted_exactly_at_every_cut(more, kind, chat, spaced):
    """Cut in two anywhere the stream shows after each piece the tokens of the events that are whole, and no others."""
    lists, states = "return_token_ids" in more, "stream_options" in more
    events = _events(SIZES, chat=chat, lists=lists, states=states, spaced=spaced)
    stream = b"".join(events) + DONE
    shown = [0] * chat + SIZES + [0] * states
    for cut in range(len(stream)):
        counter = _counter_of(more, chat=chat)
        assert counter.kind == kind
        is_whole = [sum(map(len, events[: k + 1])) <= cut for k in range(len(events))]
        expected = sum(tokens for tokens, whole in zip(shown, is_whole, strict=True) if whole)
        assert counter.feed(stream[:cut]) == expected, cut
        assert counter.feed(stream[cut:]) == sum(SIZES) - expected, cut
        assert counter.num_events == len(SIZES)
    counter = _counter_of(more, chat=chat)
    assert sum(counter.feed(stream[k : k + 1]) for k in range(len(stream))) == sum(SIZES)


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=8), st.lists(st.text(max_size=30) | st.sampled_from(TRICKS),
    min_size=1, max_size=4), st.sampled_from([LISTS, STATES, STATES | LISTS]), st.booleans(),
    st.lists(st.integers(0, 4000), max_size=8),
)  # fmt: skip
def test_nothing_that_a_model_says_is_taken_for_a_count(sizes, texts, more, chat, cuts):
    """However it is cut, with whatever text in it: the count is that of what was made."""
    lists, states = "return_token_ids" in more, "stream_options" in more
    stream = b"".join(_events(sizes, chat=chat, lists=lists, states=states, texts=texts)) + DONE
    counter, at = _counter_of(more, chat=chat), [0, *sorted(cuts), len(stream)]
    assert sum(counter.feed(stream[a:b]) for a, b in pairwise(at)) == sum(sizes)


@pytest.mark.parametrize("more", [LISTS, STATES])
def test_an_engine_that_does_not_say_what_it_was_asked_for_is_counted_by_events(more):
    """An event is a token then, and as many as were learned where that is known."""
    events = _events([1, 1, 1])
    assert [_counter_of(more).feed(b"".join(events))] == [3]
    learned = _counter_of(more, event_tokens=_taught())
    assert [learned.feed(event) for event in events] == [1, 8, 8]


def test_several_answers_are_not_counted_by_what_each_of_them_states():
    """With `n` 2 a count is one answer's own; ids add up."""
    assert _counter_of(STATES | {"n": 2}).kind == EVENTS
    assert _counter_of(LISTS | {"n": 2}).kind == LISTED


@pytest.mark.parametrize("more", [LISTS, STATES])
def test_events_that_end_otherwise_are_counted_one_by_one(more):
    """No engine writes CRLF: such events are tokens, from wherever in the stream that is seen."""
    stream = b"".join(_events([1, 3, 2], lists=True)).replace(b"\n", b"\r\n")
    for cut in (0, 5, len(stream) // 2, len(stream)):
        counter = _counter_of(more)
        assert counter.feed(stream[:cut]) + counter.feed(stream[cut:]) == 3


def test_a_number_that_is_no_count_is_none():
    """The log probability of a token that is called like the field; a text; a field of another name."""
    assert completion_tokens(b'{"completion_tokens":0.0}') is None
    assert completion_tokens(b'{"content":"completion_tokens"}') is None
    assert completion_tokens(b'{"completion_tokens_details":{"reasoning_tokens":4}}') is None
    assert completion_tokens(b'{"usage":{"completion_tokens" : 7 },"x":{"completion_tokens":-0.5}}') == 7
    assert listed_tokens(b'{"prompt_token_ids":[1,2],"token_ids":[ ],"x":{"token_ids":null}}') == (1, 0)


def test_where_nothing_is_said_an_event_is_what_ended_streams_had_in_one():
    """8 tokens each, after the first one, which comes alone; the last one has what is left and counts as one."""
    counter = _counter_of(USAGE_AT_END, event_tokens=_taught())
    events = _events([1, 8, 8, 3], usage=True)
    assert [counter.feed(event) for event in events] == [1, 8, 8, 1, 0]
    together = _counter_of(USAGE_AT_END, event_tokens=_taught())
    assert together.feed(b"".join(events)) == 18


def test_a_fraction_of_a_token_is_not_lost():
    """2.3 tokens an event are 231 after the first hundred."""
    event_tokens = EventTokens()
    event_tokens.ratio = 2.3
    counter, event = _counter_of({}, event_tokens=event_tokens), _events([1, 1])[0]
    shown = [counter.feed(event) for _ in range(101)]
    assert (set(shown), sum(shown)) == ({1, 2, 3}, 231)


def test_a_stream_that_began_before_anything_was_learned_catches_up():
    """Its next event brings what those before it had, too; never less than one a piece when the engine changes."""
    event_tokens = EventTokens()
    counter, event = _counter_of({}, event_tokens=event_tokens), _events([1, 1])[0]
    assert [counter.feed(event) for _ in range(4)] == [1, 1, 1, 1]
    event_tokens.ratio = 8.0
    assert counter.feed(event) == 1 + 4 * 8 - 4
    event_tokens.ratio = 2.0
    assert counter.feed(event) == 1


def test_one_token_an_event_is_believed_exactly():
    """Nothing is scaled where streams had an event a token, nor by a few events that hold two."""
    event_tokens = EventTokens()
    for tokens, events in ((100, 100), (50, 50), (200, 190), (100, 20), (300, 280), (60, 57), (70, 68)):
        event_tokens.learn(tokens, events)
        assert event_tokens.ratio == 1.0


def test_what_an_engine_puts_into_an_event_is_learned_from_several_streams():
    """Two may have been held up; a short one tells little; one that was merged is outvoted by the others."""
    event_tokens = EventTokens()
    for _ in range(LEAST_HELD - 1):
        event_tokens.learn(81, 11)
    event_tokens.learn(9, 2)
    assert event_tokens.ratio == 1.0
    event_tokens.learn(801, 2)
    assert event_tokens.ratio == 8.0
    for _ in range(15):  # it was started again, without
        event_tokens.learn(80, 80)
    assert event_tokens.ratio == 1.0


@pytest.mark.parametrize("interval", [1, 2, 3, 8, 20])
def test_an_interval_is_found_exactly_whatever_the_lengths(interval):
    """From streams of 40 to 400 tokens, though the last event of each has less in it."""
    event_tokens, random = EventTokens(), Random(interval)
    for k in range(40):
        tokens = random.randint(40, 400)
        event_tokens.learn(tokens, 1 - (1 - tokens) // interval)
        assert k < 9 or event_tokens.ratio == interval


def test_speculation_is_learned_as_a_mean():
    """Iterations that bring 1 to 4 tokens, 2.5 on average: within a tenth of that."""
    event_tokens, random = EventTokens(), Random(0)
    for k in range(60):
        tokens, events = 1, 1
        while tokens < 200 + 10 * k:
            tokens, events = tokens + random.randint(1, 4), events + 1
        event_tokens.learn(tokens, events)
        assert k < 9 or event_tokens.ratio == pytest.approx(2.5, rel=0.1)
