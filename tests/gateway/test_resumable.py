"""Which requests another instance may go on with: only those of which it is sure that nobody would notice."""

from __future__ import annotations

import orjson
import pytest

from polyslo.gateway.requests.body import CHAT, COMPLETIONS, read_body
from polyslo.gateway.requests.resumable import is_resumable

ASKED = {"model": "m", "prompt": "once", "stream": True}
CHATTED = {"model": "m", "messages": [{"role": "user", "content": "once"}], "stream": True}


def _may(body, path=COMPLETIONS):
    return is_resumable(read_body(path, orjson.dumps(body)))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"prompt": [1, 2, 3], "return_token_ids": True},
        {"prompt": ["once"]},
        {"n": 1, "best_of": 1, "echo": False, "logprobs": None, "suffix": None, "presence_penalty": 0.0},
        {"temperature": 0.7, "top_p": 0.9, "stop": ["\n\n", "END"], "max_tokens": 99, "min_tokens": 3, "user": "u"},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        {"vllm_xargs": {"polyslo_tpot_ms": 20, "emulate_output_tokens": 8}},
    ],
)
def test_one_plain_streamed_text_is_resumable(more):
    """What follows depends on the text before it alone, and every field is known not to change that."""
    assert _may(ASKED | more)


@pytest.mark.parametrize(
    "more",
    [
        {"stream": False},
        {"n": 2},
        {"best_of": 3},
        {"prompt": ["once", "twice"]},
        {"echo": True},
        {"suffix": "."},
        {"logprobs": 0},
        {"seed": 7},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -1},
        {"include_stop_str_in_output": True},
        {"skip_special_tokens": False},
        {"guided_regex": "a+"},
        {"stop": 7},
        {"prompt": [1, 2], "stop": "x"},
        {"stream_options": {"include_usage": True, "include_obfuscation": True}},
        {"vllm_xargs": {"whatever": 1}},
        {"a_field_of_tomorrow": 1},
    ],
)
def test_anything_else_is_not(more):
    """Several answers, what counts drawn tokens, other shapes of answers, and fields that nobody here knows."""
    assert not _may(ASKED | more)


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "auto"},
        {"logprobs": True},
        {"top_logprobs": 2},
        {"response_format": {"type": "json_object"}},
        {"continue_final_message": True, "add_generation_prompt": False},
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"messages": [*CHATTED["messages"], {"role": "assistant", "content": "upon"}]},
    ],
)
def test_a_chat_that_says_more_than_text_is_not(more):
    """Tools, structured output, templates' own switches, and an answer that comes before the answer."""
    assert _may(CHATTED, CHAT)
    assert _may(CHATTED | {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}}, CHAT)
    assert not _may(CHATTED | more, CHAT)
