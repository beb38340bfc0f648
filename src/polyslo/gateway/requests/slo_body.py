"""The SLO of a request in the body that its engine is sent: in `vllm_xargs`, which vLLM passes on untouched."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from polyslo.gateway.requests.body import Ask, encode_body
from polyslo.gateway.requests.openai_errors import BadRequest


def body_with_slo(body: bytes, ask: Ask, told: Mapping[str, float]) -> bytes:
    """Return a request's body with what its engine is told; `ask` is what was read from it."""
    body = body.rstrip()
    if b'"vllm_xargs"' not in body:  # spliced in: bodies may be large
        return b'%b,"vllm_xargs":%b}' % (body[:-1], orjson.dumps(told))
    given = ask.body.get("vllm_xargs")
    if given is not None and not isinstance(given, dict):
        return body  # the engine's to refuse
    try:
        return encode_body({**ask.body, "vllm_xargs": {**(given or {}), **told}})
    except BadRequest:  # nested too deep to be written again
        return body
