"""Which requests another instance can go on with after their client was sent some of the answer.

Only where that is sure to give the stream that was asked for: one answer, streamed, of plain text, by a sampler that
looks at the text alone and not at what it has drawn. What is in a body and not named here is not known to be so, and
rules it out. Names as vLLM 0.32 and SGLang have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyslo.gateway.requests.body import Ask

# With any value the rest of an answer follows from the text before it, or the field says nothing about the text.
_ANY = frozenset(
    {
        "model", "prompt", "messages", "stream", "max_tokens", "max_completion_tokens", "min_tokens", "ignore_eos",
        "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "logit_bias", "stop_token_ids",
        "add_special_tokens", "return_token_ids", "parallel_tool_calls", "user", "metadata", "store", "priority",
        "service_tier", "cache_salt", "prompt_cache_key", "safety_identifier",
    }
)  # fmt: skip
# With these values, which are as if the field were left out. A presence penalty counts what was drawn, and a seed
# begins again with the rest.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "suffix": ("",),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "use_beam_search": (False,),
    "tools": ([],),
    "tool_choice": ("none",),
    "response_format": ({"type": "text"},),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
}
_STREAM_OPTIONS = frozenset({"include_usage", "continuous_usage_stats"})
_READ_BY_OURS = ("polyslo_", "emulate_")  # of `vllm_xargs`: what others' logits processors read is not known


def is_resumable(ask: Ask) -> bool:
    """Tell whether another instance may go on with the answer to this."""
    body = ask.body
    if not ask.is_stream or ask.num_sequences != 1:
        return False
    if not all(_is_harmless(name, value) for name, value in body.items()):
        return False
    if ask.is_chat:
        return bool(body["messages"][-1].get("role") == "user")  # after an answer, templates differ in what follows
    return not (has_token_ids(ask) and stops(body))  # text that may be a stop's beginning is held back, ids are not


def has_token_ids(ask: Ask) -> bool:
    """Tell whether a request's prompt is token ids, so that what follows must be too."""
    return not ask.is_chat and ask.prompt_token_ids > 0


def stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the texts that end an answer."""
    stop = body.get("stop")
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def _is_harmless(name: str, value: Any) -> bool:
    if value is None or name in _ANY:
        return True
    if name == "stream_options":
        return isinstance(value, dict) and value.keys() <= _STREAM_OPTIONS
    if name == "vllm_xargs":
        return isinstance(value, dict) and all(key.startswith(_READ_BY_OURS) for key in value)
    if name == "stop":
        return isinstance(value, str) or (isinstance(value, list) and all(isinstance(stop, str) for stop in value))
    return any(type(value) is type(plain) and value == plain for plain in _PLAIN.get(name, ()))  # logprobs may be 0
