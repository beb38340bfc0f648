"""Bodies: what is read of them, and how a wrong one is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyslo.gateway.requests.body import CHAT, COMPLETIONS, Ask, encode_body, read_body
from polyslo.gateway.requests.openai_errors import BadRequest

MESSAGES = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> Ask:
    """Read a chat request with these fields."""
    return read_body(CHAT, json.dumps({"model": "m", "messages": MESSAGES} | fields).encode())


def completion(**fields: Any) -> Ask:
    """Read a completions request with these fields."""
    return read_body(COMPLETIONS, json.dumps({"model": "m", "prompt": "hello"} | fields).encode())


def complaint(path: bytes, raw: bytes | dict[str, Any]) -> BadRequest:
    """Return the complaint about a body."""
    with pytest.raises(BadRequest) as caught:
        read_body(path, raw if isinstance(raw, bytes) else json.dumps(raw).encode())
    assert caught.value.status == 400
    return caught.value


def test_a_chat_request() -> None:
    """Model, stream, number of answers and bounds; what engines judge is kept as it is."""
    ask = chat(stream=True, stream_options={"include_usage": True}, n=3, max_completion_tokens=70, temperature="hot")
    assert (ask.is_chat, ask.model, ask.is_stream, ask.includes_usage) == (True, "m", True, True)
    assert (ask.num_prompts, ask.num_sequences, ask.max_tokens, ask.expected_tokens) == (1, 3, 70, None)
    assert (ask.prompt_bytes, ask.prompt_token_ids, ask.num_media) == (5, 0, 0)
    assert ask.body["temperature"] == "hot"


def test_null_is_not_given() -> None:
    """OpenAI's clients send null for what they leave open."""
    ask = chat(stream=None, n=None, max_tokens=None, stream_options=None, nvext=None)
    assert (ask.is_stream, ask.num_sequences, ask.max_tokens) == (False, 1, None)


def test_content_in_parts_tools_and_calls_count() -> None:
    """What a chat template writes out is part of the prompt; images are counted apart."""
    content = [{"type": "text", "text": "abc"}, {"type": "image_url", "image_url": {"url": "data:x"}}, "de"]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    ask = chat(messages=messages, tools=tools)
    calls, definitions = '{"tool_calls":[{"id":1}]}', '{"tools":[{"type":"function","function":{"name":"f"}}]}'
    assert list(ask.texts()) == ["abc", "", "de", calls, definitions]
    assert ask.prompt_bytes == 5 + len(calls) + len(definitions)
    assert ask.num_media == 1


@pytest.mark.parametrize(
    ("prompt", "num_prompts", "num_bytes", "num_ids"),
    [
        ("hello", 1, 5, 0),
        ("", 1, 0, 0),
        (["a", "bcd"], 2, 4, 0),
        ([1, 2, 3], 1, 0, 3),
        ([[1, 2], [3]], 2, 0, 3),
        ("你好", 1, 6, 0),
    ],
)
def test_every_form_of_a_prompt(prompt: Any, num_prompts: int, num_bytes: int, num_ids: int) -> None:
    """A text, token ids, or several of either; text is measured in UTF-8 bytes."""
    ask = completion(prompt=prompt)
    assert (ask.num_prompts, ask.prompt_bytes, ask.prompt_token_ids) == (num_prompts, num_bytes, num_ids)


def test_answers_of_several_prompts() -> None:
    """Each prompt gets n answers; best_of makes engines work for more than are returned."""
    assert completion(prompt=["a", "b"], n=3).num_sequences == 6
    assert completion(n=2, best_of=5).num_sequences == 5


def test_the_default_length_of_completions() -> None:
    """16 tokens where nothing is said, as the OpenAI API has it; null and chat have no bound."""
    assert completion().max_tokens == 16
    assert completion(max_tokens=None).max_tokens is None
    assert chat().max_tokens is None
    assert chat(max_tokens=5.0, max_completion_tokens=5).max_tokens == 5


def test_the_expected_length() -> None:
    """The caller's hint, at most what it allows."""
    hint = {"agent_hints": {"osl": 500}}
    assert chat(nvext=hint).expected_tokens == 500
    assert chat(nvext=hint, max_tokens=100).expected_tokens == 100


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        (CHAT, {"model": None}, "model: must be the name of a model, got nothing; GET /v1/models lists them"),
        (CHAT, {"model": ["m"]}, "model: must be the name of a model, got a list of 1; GET /v1/models lists them"),
        (CHAT, {"stream": "yes"}, "stream: must be true or false, got 'yes'; correct it or leave it out"),
        (CHAT, {"n": 0}, "n: must be a whole number from 1 to 1024, got 0; correct it or leave it out"),
        (CHAT, {"n": True}, "n: must be a whole number from 1 to 1024, got True; correct it or leave it out"),
        (
            CHAT,
            {"max_tokens": 1.5},
            "max_tokens: must be a whole number from 1 to 1000000000, got 1.5; correct it or leave it out",
        ),
        (
            CHAT,
            {"max_tokens": 5, "max_completion_tokens": 6},
            "max_tokens: must equal max_completion_tokens if both are given, got 5 and 6; leave one out",
        ),
        (
            CHAT,
            {"nvext": {"agent_hints": {"osl": "long"}}},
            "nvext.agent_hints.osl: must be a whole number from 1 to 1000000000, got 'long'; "
            "correct it or leave it out",
        ),
        (
            CHAT,
            {"nvext": {"agent_hints": 1}},
            "nvext.agent_hints: must be an object, got 1; correct it or leave it out",
        ),
        (CHAT, {"stream_options": 1}, "stream_options: must be an object, got 1; correct it or leave it out"),
        (
            CHAT,
            {"stream_options": {"include_usage": 1}},
            "stream_options.include_usage: must be true or false, got 1; correct it or leave it out",
        ),
        (
            CHAT,
            {"messages": []},
            "messages: must be a list with at least one message, got a list of 0; "
            'send [{"role": "user", "content": …}]',
        ),
        (CHAT, {"messages": ["hi"]}, 'messages[0]: must be an object, got \'hi\'; send {"role": …, "content": …}'),
        (
            CHAT,
            {"messages": [*MESSAGES, {"content": 5}]},
            "messages[1].content: must be a text or a list of parts, got 5; send a text",
        ),
        (
            CHAT,
            {"messages": [{"content": [{"text": "a"}, 7]}]},
            'messages[0].content[1]: must be a part, an object with its type, got 7; send {"type": "text", "text": …}',
        ),
        (
            CHAT,
            {"messages": [{"content": [{"text": None}]}]},
            "messages[0].content[0].text: must be a text, got nothing; send a text",
        ),
        (
            COMPLETIONS,
            {"prompt": None},
            "prompt: must be a text, a list of token ids, or a list of either with at least one entry, got nothing; "
            "send for example a text",
        ),
        (
            COMPLETIONS,
            {"prompt": ["a", 1]},
            "prompt: must be a text, a list of token ids, or a list of either with at least one entry, "
            "got a list of 2; send for example a text",
        ),
        (
            COMPLETIONS,
            {"prompt": [[1], ["a"]]},
            "prompt: must be lists of token ids, at least one in each, got a list of 1; send whole numbers, or a text",
        ),
        (
            COMPLETIONS,
            {"prompt": ["a"] * 100, "n": 11},
            "prompt: a request may have at most 1024 answers, got 100 prompts with 11 answers each; "
            "send several requests",
        ),
    ],
)
def test_a_wrong_field_is_named(path: bytes, fields: dict[str, Any], message: str) -> None:
    """Field, what is allowed, what was got, what to do; the field is the error's param."""
    body = {"model": "m", "messages": MESSAGES} if path == CHAT else {"model": "m", "prompt": "a"}
    error = complaint(path, body | fields)
    assert error.message == message
    assert error.param == message.split(":")[0]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "body: must be JSON, got nothing; send a JSON object"),
        (b"[1]", "body: must be a JSON object, got a list of 1; send one"),
        (b'"x"', "body: must be a JSON object, got 'x'; send one"),
        (b'{"a": NaN}', "body: must be JSON, got "),
        (b'{"a": 1,}', "body: must be JSON, got "),
        (b'{"a": "\xff"}', "body: must be JSON, got "),
        (b"[" * 5000 + b"]" * 5000, "body: must be JSON, got "),
    ],
)
def test_what_is_no_json_object(raw: bytes, message: str) -> None:
    """Empty, truncated, not UTF-8, nested without end: all are told."""
    error = complaint(CHAT, raw)
    assert error.message.startswith(message)
    assert error.code == "invalid_json"


@pytest.mark.parametrize("name", ["model", "messages", "stream", "n", "max_tokens", "slo", "nvext"])
def test_a_field_given_twice(name: str) -> None:
    """Two parsers might take different ones, so neither is taken."""
    body = {"model": "m", "messages": MESSAGES, "stream": True, "n": 1, "max_tokens": 5, "slo": {}, "nvext": {}}
    raw = json.dumps(body)[:-1] + f", {json.dumps(name)}: {json.dumps(body[name])}}}"
    error = complaint(CHAT, raw.encode())
    assert error.message == f"{name}: must be given once, got it twice; leave one out"
    assert error.code == "duplicate"


def test_a_name_that_occurs_inside_is_not_twice() -> None:
    """Texts, values and inner objects may hold the names of fields."""
    tools = [{"model": "m", "n": 1, "stream": {"model": 2}}]
    messages = [{"role": "model", "content": '"model": "x", "stream": 1'}, {"role": "user", "content": "model"}]
    assert chat(tools=tools, messages=messages, n=1, stream=False).model == "m"


def test_a_changed_body_is_written_again() -> None:
    """What can be read but is nested too deep to write is told, not sent on with our fields in it."""
    assert encode_body({"a": "é", "b": [1, None]}) == '{"a":"é","b":[1,null]}'.encode()
    deep: Any = []
    for _ in range(300):
        deep = [deep]
    with pytest.raises(BadRequest, match=r"body: must be nested at most 254 levels deep, got more; flatten it"):
        encode_body({"a": deep})


TEXT = st.text(max_size=8)
CONTENT = st.none() | TEXT | st.lists(st.builds(dict, type=st.just("text"), text=TEXT), max_size=3)


@given(st.lists(st.builds(dict, role=st.just("user"), content=CONTENT), min_size=1, max_size=4))
def test_the_measure_is_that_of_the_texts(messages: list[dict[str, Any]]) -> None:
    """The bytes of a prompt are those of its texts, whatever they are made of."""
    ask = chat(messages=messages)
    assert ask.prompt_bytes == len("".join(ask.texts()).encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("model", "messages", "prompt", "stream", "n", "max_tokens", "stream_options", "nvext", "tools", "best_of")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON)), st.sampled_from([CHAT, COMPLETIONS]))
def test_any_json_is_read_or_complained_of(fields: dict[str, Any], path: bytes) -> None:
    """Whatever a body holds, it becomes an ask with sane numbers, or a 400 that says why."""
    body = {"model": "m", "messages": MESSAGES, "prompt": "a"} | fields
    try:
        ask = read_body(path, json.dumps(body).encode())
    except BadRequest:
        return
    assert ask.num_sequences >= ask.num_prompts >= 1
    assert ask.max_tokens is None or ask.max_tokens >= 1


@given(st.binary(max_size=30))
def test_any_bytes_are_read_or_complained_of(raw: bytes) -> None:
    """Bytes that are no request are a 400 and nothing else."""
    with pytest.raises(BadRequest):
        read_body(CHAT, raw)
