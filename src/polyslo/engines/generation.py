"""What a client asks an emulated engine for: a checked completion or chat request, as vLLM reads its body.

Fields that change nothing here (sampling, stop strings, tools, priorities) are taken and ignored. What would need
another shape of answer (`n`, several prompts, log probabilities, echo) is refused rather than faked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from polyslo.engines.emulated_text import TokenIds, rank_of, read, text_ids
from polyslo.engines.output_lengths import OutputLengths
from polyslo.engines.remote_kv import RemoteKv
from polyslo.engines.told import BEST_EFFORT, FIRST_DUE_MS, PACE_MS, TPOT_MS
from polyslo.errors import InputError

COMPLETION_MAX_TOKENS = 16  # OpenAI's default for completions; chats have none


class RequestError(InputError):
    """A request that is answered with an error: its status, vLLM's name for the kind, and the field."""

    def __init__(
        self, message: str, *, status: int = 400, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param

    def body(self) -> bytes:
        """Return the answer's body, in vLLM's shape."""
        return error_body(str(self), self.kind, self.status, self.param)


def error_body(message: str, kind: str, status: int, param: str | None = None) -> bytes:
    """Return an error in vLLM's shape."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": status}})


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What requests are checked against."""

    name: str
    max_model_len: int
    chars_per_token: int
    lengths: OutputLengths
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """A request that fits."""

    is_chat: bool
    prompt_ids: TokenIds
    state: np.uint64  # of the model that has read the prompt
    output_tokens: int
    finish_reason: str  # "length", or "stop": the last token ends the output and has no text
    is_streamed: bool
    wants_usage: bool
    wants_continuous_usage: bool
    wants_token_ids: bool
    tpot_s: float | None  # wall time; like `first_due_in_s` none for best-effort work, which comes last
    pace_s: float | None  # wall time: the longest iteration that the engine's tier allows now
    first_due_in_s: float | None  # wall time from its arrival
    hands_over: bool  # its KV is kept for another engine, which decodes
    source: RemoteKv | None  # where its KV is, when another engine has prefilled it

    @property
    def input_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.prompt_ids)


def parse_generation(body: bytes, is_chat: bool, facts: ModelFacts) -> Generation:
    """Check a request's body; raises `RequestError`."""
    data = parse_object(body)
    check_model(data, facts)
    ids = prompt_ids(data, is_chat, facts.chars_per_token)
    state = read(ids)
    max_tokens = _max_tokens(data, is_chat, len(ids), facts.max_model_len)
    xargs = _object(data, "vllm_xargs")
    wanted = _output_tokens(data, xargs, max_tokens, facts, len(ids), rank_of(state, facts.seed))
    output_tokens = min(wanted, max_tokens)
    is_streamed = _flag(data, "stream")
    stream_options = _object(data, "stream_options")
    if stream_options and not is_streamed:
        raise RequestError("Stream options can only be defined when `stream=True`.", param="stream_options")
    hands_over, source = _transfer(data, max_tokens, is_streamed)
    tpot_s = _milliseconds(xargs, TPOT_MS)
    first_due_in_s = _milliseconds(xargs, FIRST_DUE_MS, may_be_over=True)
    is_best_effort = bool(_number(xargs, BEST_EFFORT))
    return Generation(
        is_chat=is_chat,
        prompt_ids=ids,
        state=state,
        output_tokens=output_tokens,
        finish_reason="stop" if wanted < max_tokens and not _flag(data, "ignore_eos") else "length",
        is_streamed=is_streamed,
        wants_usage=_flag(stream_options, "include_usage"),
        wants_continuous_usage=_flag(stream_options, "include_usage")
        and _flag(stream_options, "continuous_usage_stats"),
        wants_token_ids=_flag(data, "return_token_ids"),
        tpot_s=None if is_best_effort else tpot_s,
        pace_s=_milliseconds(xargs, PACE_MS),
        first_due_in_s=None if is_best_effort else first_due_in_s,
        hands_over=hands_over,
        source=source,
    )


def parse_object(body: bytes) -> dict[str, Any]:
    """Read a JSON object; raises `RequestError`."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"body: not JSON, {error}") from error
    if not isinstance(data, dict):
        raise RequestError(f"body: must be a JSON object, got {type(data).__name__}")
    return data


def check_model(data: Mapping[str, Any], facts: ModelFacts) -> None:
    """Refuse a request for a model that is not served here; without `model` any will do."""
    model = data.get("model")
    if model is not None and model != facts.name:
        raise RequestError(f"The model `{model}` does not exist.", status=404, kind="NotFoundError", param="model")


def prompt_ids(data: Mapping[str, Any], is_chat: bool, chars_per_token: int) -> TokenIds:
    """Return the token ids of a prompt: given, or those of its text; raises `RequestError`."""
    for name, plain in (("n", (None, 1)), ("best_of", (None, 1)), ("echo", (None, False)),
                        ("logprobs", (None, False)), ("use_beam_search", (None, False))):  # fmt: skip
        if data.get(name) not in plain:
            raise RequestError(f"{name}: got {data[name]!r}, an emulated engine has no such answers; leave it out",
                               param=name)  # fmt: skip
    prompt = _chat_text(data) if is_chat else data.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        ids = text_ids(prompt, chars_per_token)
    elif isinstance(prompt, list):
        ids = _given_ids(prompt)
    else:
        raise RequestError(
            f"prompt: must be a text or a list of token ids, got {type(prompt).__name__}", param="prompt"
        )
    if len(ids) == 0:
        raise RequestError("The decoder prompt cannot be empty", param="prompt")
    return ids


def _given_ids(prompt: list[Any]) -> TokenIds:
    if not all(type(token) is int for token in prompt):
        raise RequestError("prompt: must be one text or one list of token ids, not several prompts", param="prompt")
    try:
        return np.array(prompt, dtype=np.uint64)
    except OverflowError as error:
        raise RequestError(f"prompt: token ids must be from 0 to 2^64 - 1, {error}", param="prompt") from error


def _chat_text(data: Mapping[str, Any]) -> str:
    """Lay out a chat as text: a line per message that names its role, as a plain chat template does."""
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages: must be a list of at least one message", param="messages")
    text = "".join(f"<{_role(message)}>{_content(message)}\n" for message in messages)
    prompts = data.get("add_generation_prompt", True)
    if not _flag(data, "continue_final_message"):
        return text + "<assistant>" * bool(prompts)
    if prompts:
        raise RequestError("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    return text[:-1]


def _role(message: Any) -> str:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RequestError("messages: each must be an object with a `role`", param="messages")
    return str(message["role"])


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise RequestError("messages: `content` must be a text or a list of parts", param="messages")
    return content


def _max_tokens(data: Mapping[str, Any], is_chat: bool, input_tokens: int, max_model_len: int) -> int:
    room = max_model_len - input_tokens
    asked = _whole(data, "max_completion_tokens") if is_chat else None
    asked = asked if asked is not None else _whole(data, "max_tokens")
    if asked is None:
        asked = max(1, room) if is_chat else COMPLETION_MAX_TOKENS
    if asked < 1:
        raise RequestError(f"max_tokens must be at least 1, got {asked}.", param="max_tokens")
    if asked > room:
        raise RequestError(
            f"This model's maximum context length is {max_model_len} tokens. However, you requested {asked} output "
            f"tokens and your prompt contains {input_tokens} input tokens, for a total of {input_tokens + asked} "
            "tokens. Please reduce the length of the input prompt or the number of requested output tokens.",
            param="input_tokens",
        )
    return asked


def _output_tokens(
    data: Mapping[str, Any],
    xargs: Mapping[str, Any],
    max_tokens: int,
    facts: ModelFacts,
    input_tokens: int,
    rank: float,
) -> int:
    exact = _number(xargs, "emulate_output_tokens")
    if exact is not None:
        if exact < 1:
            raise RequestError(f"vllm_xargs.emulate_output_tokens: must be at least 1, got {exact:g}")
        return int(exact)
    if _flag(data, "ignore_eos"):
        return max_tokens
    least = _whole(data, "min_tokens") or 0
    if least > max_tokens:
        raise RequestError(
            f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {least}.", param="min_tokens"
        )
    return max(least, facts.lengths.tokens(input_tokens, rank))


def _transfer(data: Mapping[str, Any], max_tokens: int, is_streamed: bool) -> tuple[bool, RemoteKv | None]:
    """Read `kv_transfer_params`: (whether the KV is kept for another engine, where it is if one has prefilled)."""
    params = _object(data, "kv_transfer_params")
    if _flag(params, "do_remote_decode"):
        if max_tokens != 1 or is_streamed:
            raise RequestError(
                f"kv_transfer_params: do_remote_decode needs max_tokens 1 and no stream, got max_tokens {max_tokens}",
                param="kv_transfer_params",
            )
        return True, None
    if not _flag(params, "do_remote_prefill"):
        return False, None
    source = RemoteKv.parse(params)
    if source is None:
        raise RequestError(
            "kv_transfer_params: do_remote_prefill needs remote_engine_id, remote_request_id, remote_host and "
            "remote_port, as the prefill answered them",
            param="kv_transfer_params",
        )
    return False, source


def _whole(data: Mapping[str, Any], name: str) -> int | None:
    value = data.get(name)
    if value is not None and type(value) is not int:
        raise RequestError(f"{name}: must be a whole number, got {value!r}", param=name)
    return value


def _flag(data: Mapping[str, Any], name: str) -> bool:
    value = data.get(name)
    if value is not None and type(value) is not bool:
        raise RequestError(f"{name}: must be true or false, got {value!r}", param=name)
    return bool(value)


def _object(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    if value is not None and not isinstance(value, dict):
        raise RequestError(f"{name}: must be an object, got {value!r}", param=name)
    return value or {}


def _number(xargs: Mapping[str, Any], name: str) -> float | None:
    value = xargs.get(name)
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if number is not None and not abs(number) < 1e12:
        raise RequestError(f"vllm_xargs.{name}: must be a number, got {value!r}", param="vllm_xargs")
    return number


def _milliseconds(xargs: Mapping[str, Any], name: str, *, may_be_over: bool = False) -> float | None:
    number = _number(xargs, name)
    if number is not None and number <= 0 and not may_be_over:
        raise RequestError(f"vllm_xargs.{name}: must be > 0, got {number:g}", param="vllm_xargs")
    return None if number is None else number / 1e3
