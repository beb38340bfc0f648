"""The two bodies of a request that one engine prefills and another decodes."""

from __future__ import annotations

import orjson
import pytest

from polyslo.gateway.relays.handover import PARAMS, decode_body, params_of, prefill_body

WHERE = {"do_remote_prefill": True, "remote_engine_id": "e", "remote_block_ids": [[1, 2], [2**63]], "remote_port": 5600}


def test_a_prefill_is_asked_for_one_token_and_to_keep_its_kv():
    """Not streamed, ended by nothing but its length, told no more than the first token needs; the rest as it came."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 50,
            "max_completion_tokens": 50, "min_tokens": 9, "stop": ["y"], "stop_token_ids": [3], "temperature": 0.3,
            "stream_options": {"include_usage": True}, "return_token_ids": True, "priority": 7}  # fmt: skip
    given = dict(body)
    asked = orjson.loads(prefill_body(body, None))
    params = asked.pop(PARAMS)
    assert asked == {"model": "m", "messages": body["messages"], "stream": False, "max_tokens": 1,
                     "max_completion_tokens": 1, "temperature": 0.3, "priority": 7, "ignore_eos": True}  # fmt: skip
    assert (params["do_remote_decode"], params["do_remote_prefill"]) == (True, False)
    assert {params[f"remote_{name}"] for name in ("engine_id", "block_ids", "host", "port")} == {None}
    assert body == given, "the request's own body must stay: it may be tried again"


def test_a_completion_gets_no_field_of_chats():
    """`max_completion_tokens` is set only where it was given."""
    assert "max_completion_tokens" not in orjson.loads(prefill_body({"prompt": "x"}, None))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {"polyslo_tpot_ms": 20.0}),
        ({"mine": 1}, {"mine": 1, "polyslo_tpot_ms": 20.0}),
        ("wrong", "wrong"),  # the engine's to refuse
    ],
)
def test_what_an_engine_is_told_goes_into_vllm_xargs(given, expected):
    """Beside what the client put there."""
    body = {"prompt": "x"} if given is None else {"prompt": "x", "vllm_xargs": given}
    assert orjson.loads(prefill_body(body, {"polyslo_tpot_ms": 20.0}))["vllm_xargs"] == expected


def test_a_decode_is_asked_for_everything_with_the_prefills_parameters_unchanged():
    """Its bytes as they came, and where the KV is."""
    body = b'{"prompt" : "x", "max_tokens":50}\n'
    sent = decode_body(body, WHERE)
    assert sent.startswith(body.rstrip()[:-1])
    assert orjson.loads(sent) == {"prompt": "x", "max_tokens": 50, PARAMS: WHERE}


def test_parameters_of_a_clients_own_are_replaced():
    """Nobody outside names an engine's KV; a prompt may speak of it."""
    for body in ({"prompt": "x", PARAMS: {"remote_host": "192.0.2.1"}}, {"prompt": f'say "{PARAMS}" twice'}):
        sent = orjson.loads(decode_body(orjson.dumps(body), WHERE))
        assert sent == {**body, PARAMS: WHERE}
    assert orjson.loads(prefill_body({"prompt": "x", PARAMS: WHERE}, None))[PARAMS]["remote_engine_id"] is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'{"kv_transfer_params":{"remote_port":1}}', {"remote_port": 1}),
        (b'{"kv_transfer_params":null}', None),
        (b'{"kv_transfer_params":[1]}', None),
        (b'{"choices":[]}', None),
        (b"[]", None),
        (b"not JSON", None),
    ],
)
def test_what_an_answer_says_of_its_kv(answer, expected):
    """Parameters, or that there are none: an engine without a connector answers like that."""
    assert params_of(answer) == expected
