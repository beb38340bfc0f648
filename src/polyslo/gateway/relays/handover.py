"""A request prefilled by one engine and decoded by another: the two bodies, and what the first answer says.

As vLLM's own proxies do it: the prefill engine gets the request with one token to make and keeps its KV; its answer's
`kv_transfer_params` go into the decode engine's request unchanged. That one computes the prompt's last token again and
so gives all tokens, the first too; the prefill's is thrown away. Source: vLLM 0.32, NixlConnector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from polyslo.gateway.requests.body import encode_body

PARAMS = "kv_transfer_params"
_ASKED = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
# What a prefill's single token, which nobody sees, would be refused for, made large by, or end with: vLLM keeps the KV
# of requests that ended by their length only.
_DROPPED = frozenset({"stream_options", "min_tokens", "return_token_ids", "stop", "stop_token_ids"})


def prefill_body(body: Mapping[str, Any], told: Mapping[str, float] | None) -> bytes:
    """Return what the prefill engine is asked for; `told` goes into `vllm_xargs`, see `told.slo_told`."""
    asked = {name: value for name, value in body.items() if name not in _DROPPED}
    asked |= {"max_tokens": 1, "stream": False, "ignore_eos": True, PARAMS: _ASKED}
    if "max_completion_tokens" in asked:
        asked["max_completion_tokens"] = 1
    given = asked.get("vllm_xargs")
    if told is not None and (given is None or isinstance(given, dict)):
        asked["vllm_xargs"] = {**(given or {}), **told}
    return encode_body(asked)


def decode_body(body: bytes, params: Mapping[str, Any]) -> bytes:
    """Return a request's body with the prefill's `kv_transfer_params`, whatever its client has put there."""
    if f'"{PARAMS}"'.encode() in body:
        return encode_body({**orjson.loads(body), PARAMS: params})
    return b'%b,"%b":%b}' % (body.rstrip()[:-1], PARAMS.encode(), orjson.dumps(params))  # spliced in: may be large


def params_of(answer: bytes) -> dict[str, Any] | None:
    """Return the `kv_transfer_params` of a prefill's answer; None where it has none."""
    try:
        decoded = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return None
    params = decoded.get(PARAMS) if isinstance(decoded, dict) else None
    return params if isinstance(params, dict) else None
