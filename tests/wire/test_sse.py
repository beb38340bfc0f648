"""Events counted in pieces, against a reading of the whole text line by line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyslo.wire.sse import EventCounter

LINES = [b"data: a", b"data:b", b"data: [DONE]", b"data:[DONE]", b"data", b"data: [DONE]x", b"data: " + b"x" * 40, b"",
         b": ping", b"event: x", b"id: 1", b"database: x", b"dat", b" data: x", b"data: \xe2\x82\xac"]  # fmt: skip
ENDS = [b"\n", b"\r\n", b"\r"]


def counted(lines: list[bytes]) -> tuple[int, bool]:
    """Count events the slow way: whole lines, their ends removed."""
    num_events, has_data, done = 0, False, False
    for line in lines:
        if not line:
            num_events += has_data
            has_data = False
        elif line in (b"data: [DONE]", b"data:[DONE]"):
            done = True
        elif line == b"data" or line.startswith(b"data:"):
            has_data = True
    return num_events, done


@given(
    lines=st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(ENDS)), max_size=12),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_cuts_do_not_matter(lines, cuts):
    """However a stream is cut into pieces, and whatever ends its lines, the events are the same."""
    # A lone CR before an empty line that ends with LF would read as one CRLF.
    ends = [b"\r\n" if end == b"\r" else end for _, end in lines]
    text = b"".join(line + end for (line, _), end in zip(lines, ends, strict=True))
    check(text, [line for line, _ in lines], cuts)


@given(lines=st.lists(st.sampled_from(LINES), max_size=12), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_lines_may_end_with_carriage_returns(lines, cuts):
    """The oldest line end of the standard is one too."""
    check(b"".join(line + b"\r" for line in lines), lines, cuts)


def check(text: bytes, lines: list[bytes], cuts: list[int]) -> None:
    """Compare the counts of `text` in pieces with that of its lines."""
    counter, num_events, begin = EventCounter(), 0, 0
    for cut in [*sorted(cuts), len(text)]:
        num_events += counter.feed(text[begin:cut])
        begin = max(begin, cut)
    assert (num_events, counter.done) == counted(lines)


@pytest.mark.parametrize(
    ("piece", "num_events", "done"),
    [
        (b'data: {"x": 1}\n\n', 1, False),
        (b'data: {"x": 1}\n\ndata: {"x": 2}\n\n', 2, False),
        (b"data: 1\r\n\r\n", 1, False),
        (b"data: 1\n\ndata: [DONE]\n\n", 1, True),
        (b"data: [DONE]\n\n", 0, True),
        (b"data: [DONE]\n", 0, True),
        (b'data: {"text": "[DONE]"}\n\n', 1, False),
        (b"data: 1\ndata: 2\n\n", 1, False),
        (b": keep-alive\n\n", 0, False),
        (b"event: error\ndata: x\n\n", 1, False),
        (b"event: ping\n\n", 0, False),
        (b"data: 1\n\n\n\n\n", 1, False),
        (b"data: 1\n", 0, False),
        (b"", 0, False),
    ],
)
def test_a_piece_by_hand(piece, num_events, done):
    """What engines and their front ends really send."""
    counter = EventCounter()
    assert (counter.feed(piece), counter.done) == (num_events, done)


def test_a_line_without_end_is_not_kept():
    """Memory is bounded: of an unfinished line only its beginning is held."""
    counter = EventCounter()
    for _ in range(100):
        assert counter.feed(b"data: " + b"x" * 10_000) == 0
    assert len(counter._line) < 100
    assert counter.feed(b"\n\n") == 1
