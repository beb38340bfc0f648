"""The bodies of a best-effort request that may be taken from its instance: as it begins, and as another one goes on.

A completion goes on from its prompt and what was said, in token ids where the prompt is. A chat goes on with an answer
that has begun: `continue_final_message` and no generation prompt, as vLLM 0.32 and SGLang read them (SGLang writes the
generation prompt and appends the answer itself, whatever `add_generation_prompt` says).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyslo.gateway.relays.transcript import Transcript
from polyslo.gateway.requests.body import Ask, encode_body
from polyslo.gateway.requests.resumable import has_token_ids

_LIMITS = ("max_tokens", "max_completion_tokens")
_COUNTED = {"include_usage": True, "continuous_usage_stats": True}


def watched_body(ask: Ask, told: Mapping[str, float] | None) -> bytes:
    """Return a request's body, whose stream will state its counts; raises `BadRequest` where it is nested too deep.

    `told` goes into `vllm_xargs`.
    """
    return encode_body(_watched(ask, told))


def continuing_body(ask: Ask, said: Transcript, told: Mapping[str, float] | None) -> bytes:
    """Return the body with which another instance goes on after what was `said`."""
    asked = _watched(ask, told) | _limits(ask, said.num_tokens)
    if ask.is_chat:
        asked["messages"] = [*asked["messages"], {"role": "assistant", "content": said.text}]
        asked |= {"continue_final_message": True, "add_generation_prompt": False}
    else:
        asked["prompt"] = _longer(asked["prompt"], said)
    return encode_body(asked)


def _watched(ask: Ask, told: Mapping[str, float] | None) -> dict[str, Any]:
    asked = {**ask.body, "stream_options": _COUNTED}
    if has_token_ids(ask):
        asked["return_token_ids"] = True
    if told is not None:
        asked["vllm_xargs"] = {**(asked.get("vllm_xargs") or {}), **told}
    return asked


def _limits(ask: Ask, num_tokens: int) -> dict[str, int]:
    """Return the bounds on what is still to be made."""
    body, limits = ask.body, {}
    if ask.max_tokens is not None:
        names = [name for name in _LIMITS if body.get(name) is not None] or _LIMITS[:1]
        limits = dict.fromkeys(names, ask.max_tokens - num_tokens)
    if body.get("min_tokens"):
        limits["min_tokens"] = max(0, int(body["min_tokens"]) - num_tokens)
    return limits


def _longer(prompt: Any, said: Transcript) -> Any:
    """Return a prompt with what followed: a text, token ids, or a list of one of them."""
    if isinstance(prompt, str):
        return prompt + said.text
    if isinstance(prompt[0], int):
        return [*prompt, *(said.token_ids or ())]
    return [_longer(prompt[0], said)]
