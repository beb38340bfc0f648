"""A best-effort answer over several instances, as one stream: events as vLLM 0.32 writes them, cut anywhere."""

from __future__ import annotations

import orjson
import pytest

from polyslo.gateway.relays.continuation import continuing_body, watched_body
from polyslo.gateway.relays.one_stream import OneStream
from polyslo.gateway.relays.transcript import MOST_KEPT
from polyslo.gateway.requests.body import CHAT, COMPLETIONS, read_body

DONE = b"data: [DONE]\n\n"


def _ask(path=COMPLETIONS, **more):
    prompt = {"messages": [{"role": "user", "content": "once"}]} if path == CHAT else {"prompt": "once"}
    return read_body(path, orjson.dumps({"model": "m", "stream": True, "max_tokens": 9, **prompt, **more}))


def _usage(made, prompt=4):
    return {"prompt_tokens": prompt, "total_tokens": prompt + made, "completion_tokens": made}


def _text(text, made, *, prompt=4, who="cmpl-a", end=None, ids=None, prompt_ids=None):
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": end, "stop_reason": None,
              "prompt_token_ids": prompt_ids, "token_ids": ids}  # fmt: skip
    return _event({"id": who, "object": "text_completion", "created": 1, "model": "m", "choices": [choice],
                   "usage": _usage(made, prompt)})  # fmt: skip


def _delta(delta, made, *, who="chatcmpl-a", created=1, end=None):
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": end, "token_ids": None}
    return _event({"id": who, "object": "chat.completion.chunk", "created": created, "model": "m",
                   "choices": [choice], "usage": _usage(made)})  # fmt: skip


def _sglang(delta, made=None, *, end=None):
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": end, "matched_stop": None}
    usage = {} if made is None else {"usage": _usage(made)}
    return _event(
        {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]} | usage
    )


def _last(made, *, prompt=4, who="cmpl-a"):
    return _event({"id": who, "object": "text_completion", "created": 1, "model": "m", "choices": [],
                   "usage": _usage(made, prompt)})  # fmt: skip


def _event(event):
    return b"data: " + orjson.dumps(event) + b"\n\n"


def _events(data):
    return [orjson.loads(line[6:]) for line in data.split(b"\n\n") if line[6:] not in (b"", b"[DONE]")]


def _said(stream, *pieces):
    shown = tokens = b"", 0
    for piece in pieces:
        data, tokens = stream.feed(piece)
        shown = shown[0] + data, shown[1] + tokens
    return shown


def test_a_stream_that_is_never_taken_is_shown_as_it_was_asked_for():
    """The counts that only the gateway asked for are taken out again; tokens are as the engine states them."""
    stream = OneStream(_ask())
    shown, tokens = _said(stream, _text(" up", 1) + _text("on a", 3), _text(" time", 4, end="length"), _last(4), DONE)
    assert tokens == 4
    assert [event["choices"][0]["text"] for event in _events(shown)] == [" up", "on a", " time"]
    assert not any("usage" in event for event in _events(shown))
    assert shown.endswith(DONE)
    assert not stream.said.can_go_on  # it is over


def test_events_go_on_whole_however_they_come():
    """Half an event is not shown, so that it can be taken between any two; the last may lack its empty line."""
    stream, whole = OneStream(_ask()), _text(" up", 1)
    assert stream.feed(whole[:50]) == (b"", 0)
    shown, tokens = stream.feed(whole[50:] + DONE[:-1])
    assert (len(_events(shown)), tokens) == (1, 1)
    assert stream.finish() == DONE[:-1]


def test_another_instance_goes_on_and_the_client_sees_one_stream():
    """First identity, no second prompt, usage of both: the prompt as the first counted, the tokens added up."""
    asked = _ask(stream_options={"include_usage": True})
    stream = OneStream(asked)
    _said(stream, _text(" up", 1), _text("on", 2))
    assert stream.said.can_go_on
    stream.leave()
    body = orjson.loads(continuing_body(asked, stream.said, {"polyslo_best_effort": 1}))
    assert (body["prompt"], body["max_tokens"]) == ("once upon", 7)
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert body["vllm_xargs"] == {"polyslo_best_effort": 1}
    rest = _text(" a", 1, prompt=6, who="cmpl-b"), _text(" time", 2, prompt=6, who="cmpl-b", end="stop")
    shown, tokens = _said(stream, *rest, _last(2, prompt=6, who="cmpl-b"), DONE)
    assert tokens == 2
    events = _events(shown)
    assert {event["id"] for event in events} == {"cmpl-a"}
    assert [event.get("usage") for event in events] == [None, None, _usage(4)]


def test_a_chat_goes_on_with_the_answer_that_has_begun():
    """vLLM's and SGLang's spelling; the second opening is not shown, nor is its creation."""
    asked = _ask(CHAT, max_tokens=None, max_completion_tokens=9, min_tokens=5)
    stream = OneStream(asked)
    first, _ = _said(stream, _delta({"role": "assistant", "content": ""}, 0), _delta({"content": "Up"}, 1))
    assert _events(first)[0]["choices"][0]["delta"]["role"] == "assistant"
    assert stream.said.can_go_on
    stream.leave()
    body = orjson.loads(continuing_body(asked, stream.said, None))
    assert body["messages"] == [{"role": "user", "content": "once"}, {"role": "assistant", "content": "Up"}]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert (body["max_completion_tokens"], body["max_tokens"], body["min_tokens"]) == (8, None, 4)
    opening = _delta({"role": "assistant", "content": ""}, 0, who="chatcmpl-b", created=5)
    shown, tokens = _said(stream, opening, _delta({"content": "on"}, 1, who="chatcmpl-b", created=5))
    (event,) = _events(shown)
    assert (event["id"], event["created"], tokens) == ("chatcmpl-a", 1, 1)
    assert event["choices"][0]["delta"] == {"content": "on"}


def test_a_chat_whose_closing_states_no_count_ends_with_the_counts_of_its_usage():
    """SGLang's says why it ends, and no more: no token of its own, at the first instance nor at the next."""
    asked = _ask(CHAT, stream_options={"include_usage": True})
    silent = {"role": "assistant", "content": "", "reasoning_content": None}
    stream = OneStream(asked)
    _said(stream, _sglang(silent), _sglang({"content": "Up", "reasoning_content": None}, 1))
    assert stream.said.can_go_on
    stream.leave()
    rest = _sglang(silent), _sglang({"content": "on", "reasoning_content": None}, 1)
    shown, tokens = _said(stream, *rest, _sglang({"reasoning_content": None}, end="length"), _last(1), DONE)
    assert (tokens, stream.said.num_tokens) == (1, 2)
    assert [event["choices"][0]["finish_reason"] for event in _events(shown)[:-1]] == [None, "length"]
    assert _events(shown)[-1]["usage"] == _usage(2)


def test_token_ids_go_on_as_token_ids():
    """Asked for where the prompt is, shown where the client asked; without them such a stream stays."""
    asked = _ask(prompt=[5, 6])
    assert orjson.loads(watched_body(asked, None))["return_token_ids"] is True
    stream = OneStream(asked)
    shown, _ = _said(stream, _text(" up", 1, ids=[7], prompt_ids=[5, 6]), _text("on a", 3, ids=[8, 9]))
    assert all(event["choices"][0]["token_ids"] is None for event in _events(shown))
    assert stream.said.can_go_on
    stream.leave()
    assert orjson.loads(continuing_body(asked, stream.said, None))["prompt"] == [5, 6, 7, 8, 9]
    shows_all = OneStream(_ask(prompt=[[5, 6]], return_token_ids=True))
    shown, _ = _said(shows_all, _text(" up", 1, ids=[7], prompt_ids=[5, 6]))
    assert _events(shown)[0]["choices"][0]["prompt_token_ids"] == [5, 6]
    shows_all.leave()
    shown, _ = _said(shows_all, _text("on", 1, ids=[8], prompt_ids=[5, 6, 7]))
    choice = _events(shown)[0]["choices"][0]
    assert (choice["prompt_token_ids"], choice["token_ids"]) == (None, [8])
    stray = OneStream(asked)
    _said(stray, _text(" up", 1, ids=[7], prompt_ids=[5, 6]), _text("\ufffdon", 2, ids=[8]))
    assert stray.said.can_go_on  # ids say which bytes those are
    without = OneStream(asked)
    _said(without, _text(" up", 1))
    assert not without.said.can_go_on


def test_what_a_failed_rest_has_said_is_forgotten():
    """Its client was not sent it; yet another instance goes on after what was."""
    stream = OneStream(asked := _ask())
    _said(stream, _text(" up", 1))
    stream.leave()
    _said(stream, _text("on", 1), _text(" a", 2)[:30])
    stream.forget_rest()
    assert orjson.loads(continuing_body(asked, stream.said, None))["prompt"] == "once up"
    assert (stream.said.num_tokens, stream.said.can_go_on) == (1, True)
    assert _said(stream, _text("on", 1))[1] == 1


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [_text(" up\ufffd", 1)],
        [_text(" up", 1), _text("\ufffdon", 2)],  # bytes that are no text
        [_text(" up", 1), _text("", 2)],  # held back: half a character, or what may be a stop
        [_text(" up E", 1)],  # stop: END
        [_text(" up", 9)],  # nothing is left to be made
        [_text(" up", 1, end="stop")],
        [_event({"id": "a", "choices": [{"index": 0, "text": " up", "logprobs": None, "finish_reason": None}]})],
        [_event({"id": "a", "choices": [{"index": 1, "text": " up"}], "usage": _usage(1)})],
        [_event({"error": {"message": "died"}})],
        [_text(" up", 1), b": ping\n\ndata: what?\n\n"],
        [_text(" up", 1).replace(b"\n\n", b"\r\n\r\n")],
        [_text("x" * (MOST_KEPT + 1), 1)],
    ],
)  # fmt: skip
def test_where_nobody_can_go_on_unseen_it_stays(pieces):
    """Half characters, half stops, counts that nobody states, the end, and what is no event of an engine we know."""
    stream = OneStream(_ask(stop=["END"]))
    _said(stream, *pieces)
    assert not stream.said.can_go_on


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "Up "},
        {"content": "<think>Up"},
        {"content": "Up", "reasoning_content": "so"},
        {"content": None, "tool_calls": [{"index": 0}]},
    ],
)
def test_a_chat_whose_template_would_change_the_answer_stays(delta):
    """Templates strip answers, and leave thoughts out; tool calls and reasoning are not text."""
    stream = OneStream(_ask(CHAT))
    _said(stream, _delta({"role": "assistant", "content": ""}, 0), _delta(delta, 1))
    assert not stream.said.can_go_on


def test_what_it_can_t_read_it_passes_on():
    """Unknown events, errors and other line ends reach the client as they came, and tokens are counted as elsewhere."""
    for raw in (b'data: {"error":{"message":"died"}}\n\n', b"event: x\ndata: {}\n\n", b": ping\n\n"):
        assert OneStream(_ask()).feed(raw)[0] == raw
    stream, raw = OneStream(_ask()), _text(" up", 1).replace(b"\n\n", b"\r\n\r\n")
    assert stream.feed(raw + raw) == (raw + raw, 2)
