"""What compiled code takes for nothing but tokens: whole chunks, each one event of an answer that goes on."""

from __future__ import annotations

import socket
import sys

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyslo.gateway.belief.count_kinds import EVENTS, LISTED, STATED
from polyslo.gateway.belief.stream_tokens import TokenCounter
from polyslo.gateway.relays.counting import Tally
from polyslo.gateway.relays.passage import Passage
from polyslo.gateway.relays.token_pipe import BUFFER_BYTES, LINK, PIECE_BYTES, count, count_one_each, is_same
from polyslo.gateway.requests.body import read_body
from polyslo.gateway.requests.request import Request

TOKEN = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":" tale"},"finish_reason":null}],"usage":null}\n\n'
SPACED = b'data: {"choices": [{"delta": {"content": "a"}, "finish_reason": null}]}\n\n'
NO_TOKENS = {
    "the end of a stream": b"data: [DONE]\n\n",
    "a reason to finish": TOKEN.replace(b"null}]", b'"stop"}]'),
    "a reason to finish, spaced": SPACED.replace(b"null", b'"abort"'),
    "usage alone": b'data: {"id":"c","choices":[],"usage":{"completion_tokens":3}}\n\n',
    "usage alone, spaced": b'data: {"choices": [ ], "usage": {}}\n\n',
    "usage with a token": TOKEN.replace(b'"usage":null', b'"usage":{"completion_tokens":3}'),
    "an error": b'data: {"error":{"message":"x"}}\n\n',
    "an error object": b'data: {"object":"error","message":"x"}\n\n',
    "another kind of event": b'event: error\ndata: {"a":1}\n\n',
    "a comment": b": ping\n\n",
    "two events": TOKEN + TOKEN,
    "half an event": TOKEN[:-1],
    "lines that end otherwise": TOKEN.replace(b"\n", b"\r\n"),
    "no object": b"data: 12345678\n\n",
    "no space": TOKEN.replace(b"data: ", b"data:"),
    "nothing of an event": b"{}",
    "just the frame of one": b"data: {\n",
}


def framed(payload: bytes, form: bytes = b"%x") -> bytes:
    """Return a chunk."""
    return form % len(payload) + b"\r\n" + payload + b"\r\n"


def counted(data: bytes, start: int = 0) -> int:
    """Count events that do not say how many tokens they carry."""
    num_events, told = told_by(data, EVENTS, start)
    assert told == num_events
    return num_events


def told_by(data: bytes, kind: int, start: int = 0) -> tuple[int, int]:
    """Count in a buffer that holds these bytes from `start` on, between others that could be taken for theirs."""
    buffer = np.full(BUFFER_BYTES, ord("1"), np.uint8)
    buffer[start : start + len(data)] = np.frombuffer(data, np.uint8)
    return count(buffer, start, start + len(data), kind)


@pytest.mark.parametrize("start", [0, 7, BUFFER_BYTES - 64 - PIECE_BYTES])
def test_tokens_are_counted_by_their_chunks(start):
    """One, several that came together, and one with spaces in its JSON."""
    assert counted(framed(TOKEN), start) == 1
    assert counted(framed(TOKEN) * 3 + framed(SPACED), start) == 4


@pytest.mark.parametrize("payload", NO_TOKENS.values(), ids=NO_TOKENS.keys())
def test_whatever_is_more_than_a_token_is_left(payload):
    """Alone, and before or after tokens: then nothing of it is counted."""
    assert counted(framed(payload)) == 0
    assert counted(framed(TOKEN) + framed(payload)) == 0
    assert counted(framed(payload) + framed(TOKEN)) == 0


@pytest.mark.parametrize("cut", range(1, len(framed(TOKEN))))
def test_half_a_chunk_is_left(cut):
    """Wherever it was cut: its beginning and its rest."""
    whole = framed(TOKEN)
    assert counted(whole[:cut]) == 0
    assert counted(whole + whole[:cut]) == 0
    assert counted(whole[cut:]) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"0\r\n\r\n",
        framed(TOKEN, b"%X;a=b"),
        framed(TOKEN, b"0000%x"),
        b" " + framed(TOKEN),
        framed(TOKEN)[:-2] + b"\n\n",
        framed(TOKEN).replace(b"\r\n", b"\n\n", 1),
        b"-1\r\n" + TOKEN,
        b"ffff\r\n" + TOKEN,
    ],
)
def test_other_framing_is_left(data):
    """The last chunk, extensions, sizes in other forms, sizes that lie."""
    assert counted(data) == 0


@given(st.text(), st.text())
def test_what_a_model_says_is_never_more_than_a_token(before, said):
    """Its text is escaped inside JSON, so it can't look like an end or an error, whatever it quotes."""
    for content in (before + said, before + '"finish_reason":"stop"' + said, '"error"' + said, '"choices":[]' + said):
        choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
        payload = b"data: " + orjson.dumps({"id": "c", "choices": [choice]}) + b"\n\n"
        if len(framed(payload)) <= PIECE_BYTES:
            assert counted(framed(payload)) == (0 if content.startswith("err") else 1)


@given(st.binary(max_size=300))
def test_noise_is_no_token(data):
    """No bytes make it read beyond what came, or take noise for a chunk."""
    assert counted(data) == 0
    assert counted(framed(TOKEN) + data) == (1 if not data else 0)


@pytest.mark.skipif(sys.platform != "linux", reason="sockets have cookies on Linux alone")
def test_a_number_that_is_another_sockets_by_now_is_told():
    """The kernel gives a closed socket's number away again; its cookie it gives to nobody else."""
    first, other = socket.socketpair()
    number, cookie = first.fileno(), int.from_bytes(first.getsockopt(socket.SOL_SOCKET, 57, 8), "little")
    assert is_same(number, cookie)
    first.close()
    assert not is_same(number, cookie)
    again, _ = socket.socketpair()
    assert again.fileno() == number
    assert not is_same(number, cookie)
    other.close()
    again.close()
    _.close()


@given(
    st.lists(st.tuples(st.floats(0.0, 0.5), st.integers(1, 20)), min_size=1, max_size=30),
    st.integers(1, 3), st.floats(0.001, 1.0), st.floats(0.001, 0.2),
)  # fmt: skip
def test_tokens_are_counted_and_held_against_their_deadlines_as_python_does_it(pieces, first, ttft_s, tpot_s):
    """Whatever part of a stream is counted here: the same count, the same verdict, and the same at a true-up's end."""
    ask = read_body("/v1/completions", b'{"model": "m", "prompt": "x", "stream": true}')
    request = Request(100.0, ttft_s, tpot_s, 0, 10, 1000, is_streamed=True)
    passages = [Passage("r", ask, "20ms") for _ in range(2)]
    tallies = [Tally(passage, request) for passage in passages]
    counters = [TokenCounter(ask) for _ in range(2)]
    for tally, counter in zip(tallies, counters, strict=True):
        assert tally.reckoning(7, counter) is None  # it has not begun
        tally.add(counter.went_past(first, first), 100.1, counter)
    link = np.zeros(1, LINK)[0]
    link["r"], link["num_tokens"], link["num_events"], link["due_s"], link["tpot_s"] = tallies[1].reckoning(
        7, counters[1]
    )
    now_s = 100.1
    for gap_s, events in pieces:
        now_s += gap_s
        tallies[0].add(counters[0].went_past(events, events), now_s, counters[0])
        link["heard_s"] = now_s
        count_one_each(link, events)
    told = int(link["num_unheard"]), float(link["heard_s"]), float(link["late_ratio"])
    tallies[1].add_counted(*told, counters[1])
    assert passages[0] == passages[1]
    assert counters[0].num_events == counters[1].num_events == link["num_events"]
    tail = b"data: [DONE]\n\n"
    for stated in (passages[0].tokens, 2 * passages[0].tokens, 9 * passages[0].tokens):
        for tally, counter in zip(tallies, counters, strict=True):
            tally.true_up(stated, tail, counter, None)
        assert passages[0] == passages[1]


def listed(num_ids: int, text: str = " tale") -> bytes:
    """Return an event with so many ids, as vLLM writes a completion's first one."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": None, "stop_reason": None}
    ids = {"prompt_token_ids": [5, 6, 7], "token_ids": list(range(num_ids))}
    return b"data: " + orjson.dumps({"id": "c", "choices": [choice | ids]}) + b"\n\n"


def stated(num_tokens: int, text: str = " tale") -> bytes:
    """Return an event that states how many tokens there are so far."""
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None, "token_ids": [1, 2]}
    usage = {"prompt_tokens": 3, "total_tokens": 3 + num_tokens, "completion_tokens": num_tokens}
    return b"data: " + orjson.dumps({"id": "c", "choices": [choice], "usage": usage}) + b"\n\n"


@pytest.mark.parametrize("start", [0, 7, BUFFER_BYTES - 64 - PIECE_BYTES])
def test_ids_are_counted_and_the_last_count_is_read(start):
    """Ids of all events that came together; an empty list is an event without a token. Of counts the last one holds."""
    assert told_by(b"".join(framed(listed(n)) for n in (1, 8, 0, 3)), LISTED, start) == (4, 12)
    assert told_by(framed(listed(0)), LISTED, start) == (1, 0)
    assert told_by(b"".join(framed(stated(n)) for n in (3, 11, 11)), STATED, start) == (3, 11)
    spaced = framed(listed(2).replace(b'ids":[0,1]', b'ids" : [ 0 , 1 ]'))
    assert told_by(spaced, LISTED, start) == (1, 2)
    assert told_by(framed(stated(7).replace(b'tokens":7', b'tokens" : 7 ')), STATED, start) == (1, 7)


@pytest.mark.parametrize(("kind", "payload"), [(LISTED, listed(3)), (STATED, stated(3))])
def test_half_a_chunk_that_says_its_count_is_left(kind, payload):
    """Wherever it was cut."""
    whole = framed(payload)
    for cut in range(1, len(whole)):
        assert told_by(whole[:cut], kind) == told_by(whole + whole[:cut], kind) == (0, 0)
        assert told_by(whole[cut:], kind) == (0, 0)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (LISTED, TOKEN),  # Python knows how many tokens that may be
        (LISTED, listed(2).replace(b"[0,1]", b"null")),
        (LISTED, stated(3)),
        (LISTED, b'data: {"choices":[{"token_ids":[0,1\n\n'),
        (LISTED, listed(3).replace(b'"finish_reason":null', b'"finish_reason":"stop"')),
        (STATED, TOKEN),
        (STATED, listed(2)),
        (STATED, stated(3).replace(b':3}}', b':3.5}}')),
        (STATED, stated(3).replace(b':3}}', b':null}}')),
        (STATED, stated(3).replace(b':3}}', b':1234567890}}')),
        (STATED, stated(3).replace(b'"choices":[', b'"choices":[],"x":[')),
        (EVENTS, stated(3)),
    ],
)  # fmt: skip
def test_events_that_do_not_say_their_count_as_was_asked_are_left(kind, payload):
    """Alone and among others: nothing of it is counted, all of it is Python's."""
    good = framed(listed(1) if kind == LISTED else stated(3) if kind == STATED else TOKEN)
    assert told_by(framed(payload), kind) == (0, 0)
    assert told_by(good + framed(payload), kind) == (0, 0)
    assert told_by(framed(payload) + good, kind) == (0, 0)


@given(st.text(), st.integers(0, 30))
def test_no_text_is_taken_for_a_count(said, num_tokens):
    """Ids and counts inside a text are escaped; a text that is the field's name has no number after it."""
    texts = said, said + '"token_ids":[1,2,3]', '"completion_tokens":99,' + said, "token_ids", "completion_tokens"
    for text in texts:
        for kind, payload in ((LISTED, listed(num_tokens, text)), (STATED, stated(num_tokens, text))):
            if len(framed(payload)) <= PIECE_BYTES and not text.startswith("err"):
                expected = (0, 0) if kind == LISTED and text == "completion_tokens" else (1, num_tokens)
                assert told_by(framed(payload), kind) == expected
