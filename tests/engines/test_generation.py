"""Which requests an emulated engine takes, how long their outputs are, and what it says to the others."""

from __future__ import annotations

import orjson
import pytest

from polyslo.engines.generation import ModelFacts, RequestError, parse_generation
from polyslo.engines.output_lengths import OutputLengths

FACTS = ModelFacts("tiny", 1000, 4, OutputLengths.parse("50"), 0)


def parse(is_chat=False, **body):
    """Return what becomes of a request."""
    if not is_chat:
        body.setdefault("prompt", [1, 2, 3])
    return parse_generation(orjson.dumps(body), is_chat, FACTS)


@pytest.mark.parametrize(
    ("body", "output_tokens", "reason"),
    [
        ({}, 16, "length"),
        ({"max_tokens": 200}, 50, "stop"),
        ({"max_tokens": 50}, 50, "length"),
        ({"max_tokens": 200, "ignore_eos": True}, 200, "length"),
        ({"max_tokens": 200, "min_tokens": 200}, 200, "length"),
        ({"max_tokens": 200, "min_tokens": 60}, 60, "stop"),
        ({"max_tokens": 200, "vllm_xargs": {"emulate_output_tokens": 7}}, 7, "stop"),
        ({"max_tokens": 200, "vllm_xargs": {"emulate_output_tokens": "300"}}, 200, "length"),
        ({"max_tokens": 200, "temperature": 0.7, "stop": ["x"], "unheard_of": {}}, 50, "stop"),
    ],
)
def test_how_an_output_ends(body, output_tokens, reason):
    """`max_tokens` bounds the length that is drawn, asked for with `min_tokens`, or set exactly."""
    generation = parse(**body)
    assert (generation.output_tokens, generation.finish_reason) == (output_tokens, reason)


def test_prompts_are_ids_texts_and_chats():
    """Ids count as they are, texts by their characters, chats by the text that they make."""
    assert parse(prompt=[5, 6]).input_tokens == 2
    assert parse(prompt="ten chars!").input_tokens == 3
    assert parse(prompt=["ten chars!"]).input_tokens == 3
    plain = parse(is_chat=True, messages=[{"role": "user", "content": "hello"}])
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    assert parse(is_chat=True, messages=[{"role": "user", "content": parts}]).state == plain.state
    assert plain.output_tokens == 50  # a chat without max_tokens may fill the context
    assert parse(is_chat=True, messages=[{"role": "user"}], max_completion_tokens=9, max_tokens=12).output_tokens == 9


def test_a_chat_may_go_on_with_the_answer_begun():
    """As vLLM has it: no generation prompt then, which are two flags; both at once are an error."""
    asked = [{"role": "user", "content": "hello"}]
    begun = [*asked, {"role": "assistant", "content": " bada"}]
    whole = parse(is_chat=True, messages=asked)
    goes_on = parse(is_chat=True, messages=begun, continue_final_message=True, add_generation_prompt=False)
    assert goes_on.prompt_ids.tolist()[:-1] == whole.prompt_ids.tolist()
    with pytest.raises(RequestError, match="Cannot set both"):
        parse(is_chat=True, messages=begun, continue_final_message=True)


def test_an_slo_comes_as_flat_numbers():
    """TPOT and the time left for the first token, in ms, as numbers or texts; the latter may be over."""
    generation = parse(vllm_xargs={"polyslo_tpot_ms": 25, "polyslo_first_due_ms": "-3.5", "other": "x"})
    assert (generation.tpot_s, generation.first_due_in_s) == (0.025, -0.0035)
    relegated = parse(vllm_xargs={"polyslo_tpot_ms": 25, "polyslo_first_due_ms": -3.5, "polyslo_best_effort": 1})
    assert (relegated.tpot_s, relegated.first_due_in_s) == (None, None)
    assert (parse().tpot_s, parse().first_due_in_s) == (None, None)


@pytest.mark.parametrize(
    ("body", "status", "param", "said"),
    [
        ({"max_tokens": 998}, 400, "input_tokens", "maximum context length is 1000 tokens. However, you requested 998"),
        ({"prompt": [1] * 1000}, 400, "input_tokens", "your prompt contains 1000 input tokens"),
        ({"prompt": "x" * 4000, "max_tokens": 1}, 400, "input_tokens", "1000 input tokens"),
        ({"prompt": []}, 400, "prompt", "cannot be empty"),
        ({"prompt": None}, 400, "prompt", "text or a list of token ids"),
        ({"prompt": ["a", "b"]}, 400, "prompt", "not several"),
        ({"prompt": [-1]}, 400, "prompt", "token ids must be"),
        ({"max_tokens": 0}, 400, "max_tokens", "at least 1"),
        ({"max_tokens": 1.5}, 400, "max_tokens", "whole number"),
        ({"min_tokens": 17}, 400, "min_tokens", "max_tokens=16"),
        ({"n": 2}, 400, "n", "no such answers"),
        ({"logprobs": 1}, 400, "logprobs", "no such answers"),
        ({"stream": "yes"}, 400, "stream", "true or false"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", "stream=True"),
        ({"vllm_xargs": {"polyslo_tpot_ms": 0}}, 400, "vllm_xargs", "must be > 0"),
        ({"vllm_xargs": {"polyslo_tpot_ms": "fast"}}, 400, "vllm_xargs", "must be a number"),
        ({"vllm_xargs": {"polyslo_first_due_ms": [1]}}, 400, "vllm_xargs", "must be a number"),
        ({"vllm_xargs": 3}, 400, "vllm_xargs", "must be an object"),
        ({"model": "huge"}, 404, "model", "`huge` does not exist"),
    ],
)
def test_what_can_not_be_answered_is_refused(body, status, param, said):
    """Errors have vLLM's shape and name the field."""
    with pytest.raises(RequestError) as caught:
        parse(**body)
    error = orjson.loads(caught.value.body())["error"]
    assert (caught.value.status, error["code"], error["param"]) == (status, status, param)
    assert said in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"messages": []}', b'{"messages": [3]}'])
def test_a_body_that_is_no_request_is_refused(body):
    """Whatever the bytes are, the answer is a 400."""
    with pytest.raises(RequestError) as caught:
        parse_generation(body, True, FACTS)
    assert caught.value.status == 400
