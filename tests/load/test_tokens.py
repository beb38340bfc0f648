from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load.fakes import DONE, event, usage_event
from polyslo.load.tokens import MAX_EVENT_BYTES, TokenCounter

ROLE = b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
CHAT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
CHAT_END = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
COMPLETION = event("a") + event('\\"error\\"') + event("") + event("\\n\\n") + event("z", finish="length")


def fed(*pieces: bytes, **options: bool) -> TokenCounter:
    """Return a counter that was fed these pieces."""
    counter = TokenCounter(**options)
    total = sum(counter.feed(piece) for piece in pieces) + counter.end()
    assert total == counter.num_tokens
    return counter


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """Cut a stream at some places."""
    edges = [0, *sorted(p % (len(stream) + 1) for p in places), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


@given(st.lists(st.integers(0, 10_000), max_size=30), st.sampled_from([b"\n", b"\r\n"]))
def test_pieces_may_end_anywhere(places, newline):
    """However the network cuts the stream, its tokens, usage and end are the same."""
    stream = (COMPLETION + usage_event(5) + DONE).replace(b"\n", newline)
    counter = fed(*cut(stream, places))
    assert (counter.num_tokens, counter.usage_tokens, counter.finish_reason) == (5, 5, "length")
    assert counter.is_done
    assert counter.error is None
    assert not counter.disagrees


@given(st.lists(st.integers(0, 10_000), max_size=30))
def test_usage_in_every_event_counts_tokens_that_come_together(places):
    """With usage the count is the server's, also where an event has several tokens, wherever pieces end."""
    counts = [1, 2, 5, 5, 9]
    stream = (
        b"".join(event("x", usage=n) for n in counts) + event("y", finish="stop", usage=10) + usage_event(10) + DONE
    )
    counter = fed(*cut(stream, places), by_usage=True)
    assert (counter.num_tokens, counter.usage_tokens, counter.is_done) == (10, 10, True)
    assert not counter.counted_by_events


def test_usage_that_does_not_come_is_replaced_by_events():
    """A server that ignores the wish for usage in every event is counted by events, and that is known."""
    counter = fed(event("a"), event("b"), event("c", finish="length"), usage_event(3), DONE, by_usage=True)
    assert (counter.num_tokens, counter.counted_by_events) == (3, True)


def test_other_spacing_is_the_same_json():
    """Servers that put spaces behind colons and commas are understood."""
    stream = (event("a") * 3 + event("b", finish="stop")).replace(b'":', b'": ').replace(b',"', b', "')
    assert fed(stream, DONE).num_tokens == 4


def test_frames_that_change_are_learned_again():
    """What stands around the text may change in mid-stream, as a time stamp does."""
    pieces = [event("a").replace(b'"created":1', b'"created":%d' % (k // 3)) for k in range(30)]
    assert fed(*pieces, DONE).num_tokens == 30


def test_a_chat_begins_with_a_role_that_is_no_token():
    """The event that only tells the role counts for nothing."""
    assert fed(ROLE, CHAT % b"a", CHAT % b"b", CHAT_END, DONE).num_tokens - 1 == 2


def test_an_empty_last_event_is_a_token_where_one_is_expected():
    """Some servers close with an empty event, others' last token has no text: the expected number decides."""
    counter = fed(ROLE, CHAT % b"a", CHAT % b"b", CHAT_END, DONE)
    assert counter.num_doubtful == 1
    assert [counter.final_tokens(expected) for expected in (1, 2, 3, 4)] == [2, 2, 3, 3]
    told = fed(ROLE, CHAT % b"a", CHAT % b"b", CHAT_END, usage_event(2), DONE)
    assert told.final_tokens(3) == 2
    assert not told.disagrees


def test_several_tokens_in_an_event_are_seen_by_the_final_usage():
    """The number is put right, and that deadlines were those of other tokens is known."""
    counter = fed(event("a b"), event("c d", finish="length"), usage_event(4), DONE)
    assert counter.final_tokens(4) == 4
    assert counter.disagrees


def test_comments_and_events_without_data_count_for_nothing():
    """Keep-alives come between tokens."""
    assert fed(b": ping\n\n", event("a"), b": ping\n\n" + event("b"), b"event: x\n\n", b"\n\n", DONE).num_tokens == 2


def test_an_error_event_is_kept_though_done_follows():
    """vLLM ends a stream whose engine has died with an error event and [DONE]."""
    error = b'data: {"error": {"message": "EngineCore encountered an issue.", "code": 500}}\n\n'
    counter = fed(event("a"), error, DONE)
    assert counter.error == ("error_event", "EngineCore encountered an issue.")
    assert (counter.num_tokens, counter.is_done) == (1, True)


def test_an_error_is_not_a_plain_token_after_plain_tokens():
    """Once plain tokens have been seen, everything that looks otherwise is still read."""
    counter = fed(event("a"), event("b"), event("c", finish="abort"), DONE)
    assert counter.finish_reason == "abort"


@pytest.mark.parametrize("broken", [b"data: {nonsense\n\n", b"data: 5\n\n"])
def test_what_is_no_json_object_is_malformed(broken):
    """Bytes that are no event are no token."""
    counter = fed(event("a"), broken, DONE)
    assert counter.error is not None
    assert counter.error[0] == "malformed"
    assert counter.num_tokens == 1


def test_an_event_without_end_does_not_fill_the_memory():
    """Beyond a bound it is dropped and called malformed."""
    counter = TokenCounter()
    for _ in range(3):
        counter.feed(b"x" * (MAX_EVENT_BYTES // 2))
    assert counter.error is not None
    assert counter.error[0] == "malformed"


def test_the_last_event_needs_no_blank_line():
    """A stream may end right behind [DONE]."""
    assert fed(event("a"), DONE.rstrip()).is_done
