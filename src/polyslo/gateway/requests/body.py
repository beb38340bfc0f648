"""What the gateway must know of a request's body: the model, how long the prompt is, how long the answer may get.

Everything else is the engine's to judge, so a field that does not matter here is neither checked nor changed; the
body's bytes are sent on as they came wherever they can be. What matters is checked strictly: a wrong type or a field
given twice is a 400, because gateway and engine must not read two different requests out of one body.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from polyslo.gateway.requests.openai_errors import BadRequest
from polyslo.gateway.requests.wishes import shown

CHAT, COMPLETIONS = b"/v1/chat/completions", b"/v1/completions"
GENERATIONS = frozenset({CHAT, COMPLETIONS})
MAX_TOKENS = 1_000_000_000
MAX_SEQUENCES = 1024  # answers to one request: prompts times n
COMPLETION_TOKENS = 16  # the OpenAI API's default for completions; vLLM and SGLang have it too
# Fields that both sides read; of each only one may be in the body.
_READ_TWICE = (
    "model",
    "prompt",
    "messages",
    "stream",
    "n",
    "best_of",
    "max_tokens",
    "max_completion_tokens",
    "slo",
    "nvext",
)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request's body, decoded, and what was read from it. Lengths are of all its prompts together.

    The length of text is in UTF-8 bytes and not in characters: a token is about four bytes in English and three in
    Chinese, but four characters in one and one in the other.
    """

    is_chat: bool
    model: str
    is_stream: bool
    includes_usage: bool  # stream_options.include_usage
    num_prompts: int
    num_sequences: int  # answers: prompts times n, or best_of
    max_tokens: int | None  # of each answer
    expected_tokens: int | None  # of each answer, as its caller expects (nvext.agent_hints.osl), at most max_tokens
    prompt_bytes: int  # of text, UTF-8
    prompt_token_ids: int  # prompts given as token ids: exact
    num_media: int  # parts that are neither text nor ids: their tokens can't be told here
    body: dict[str, Any]

    def texts(self) -> Iterator[str]:
        """Yield the prompt's texts, in order."""
        yield from _chat_texts(self.body) if self.is_chat else _prompt_texts(self.body["prompt"])


def read_body(path: bytes, raw: bytes) -> Ask:
    """Return what a body asks for; `path` is `CHAT` or `COMPLETIONS`. Raises `BadRequest` naming the field."""
    body = _decode(raw)
    _reject_twice(body, raw)
    is_chat = path == CHAT
    num_prompts, prompt_bytes, token_ids, num_media = _measure_chat(body) if is_chat else _measure_prompts(body)
    max_tokens = _max_tokens(body, is_chat)
    is_stream = _flag(body, "stream")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise _wrong("model", "the name of a model", model, "GET /v1/models lists them")
    return Ask(
        is_chat=is_chat,
        model=model,
        is_stream=is_stream,
        includes_usage=_includes_usage(body, is_stream),
        num_prompts=num_prompts,
        num_sequences=_num_sequences(body, num_prompts),
        max_tokens=max_tokens,
        expected_tokens=_expected_tokens(body, max_tokens),
        prompt_bytes=prompt_bytes,
        prompt_token_ids=token_ids,
        num_media=num_media,
        body=body,
    )


def encode_body(body: Mapping[str, Any]) -> bytes:
    """Return a changed body's bytes. Raises `BadRequest` where it is nested too deep to be written again."""
    try:
        return orjson.dumps(body)
    except (TypeError, ValueError) as error:  # orjson reads 1024 levels and writes 254
        raise BadRequest(
            "body: must be nested at most 254 levels deep, got more; flatten it, or send slo as headers",
            code="too_deep",
        ) from error


def _decode(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        got = f"{error.msg} (line {error.lineno}, column {error.colno})" if raw else "nothing"
        raise BadRequest(f"body: must be JSON, got {got}; send a JSON object", code="invalid_json") from error
    if not isinstance(body, dict):
        raise BadRequest(f"body: must be a JSON object, got {shown(body)}; send one", code="invalid_json")
    return body


def _reject_twice(body: Mapping[str, Any], raw: bytes) -> None:
    """Refuse a field that is in the body twice: parsers differ in which one they take.

    Counting the field's name in the raw bytes costs little and can't miss one (inside texts the quotes are escaped;
    a name spelt with escapes is missed, and then ours and the engines' parsers take the last). Only where a name
    occurs twice, it may be deeper inside, the body is read again, pair by pair.
    """
    if all(raw.count(b'"%b"' % name.encode()) < 2 for name in _READ_TWICE if name in body):
        return
    for name in _READ_TWICE:
        if sum(key == name for key, _ in _top_pairs(raw)) > 1:
            raise BadRequest(f"{name}: must be given once, got it twice; leave one out", param=name, code="duplicate")


def _top_pairs(raw: bytes) -> Sequence[tuple[str, Any]]:
    """Return the outermost object's pairs; inner objects are not kept."""
    pairs: list[tuple[str, Any]] = []

    def keep(found: list[tuple[str, Any]]) -> None:
        nonlocal pairs
        pairs = found  # the outermost object ends last

    try:
        json.loads(raw, object_pairs_hook=keep)
    except (ValueError, RecursionError):  # orjson has read it; what only the standard library can't is not ours
        return ()
    return pairs


def _measure_prompts(body: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Return (prompts, bytes of text, token ids, 0) of `prompt`: a text, token ids, or a list of either."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return 1, _size(prompt), 0, 0
    if isinstance(prompt, list) and prompt:
        kinds = set(map(type, prompt))
        if kinds == {str}:
            return len(prompt), sum(map(_size, prompt)), 0, 0
        if kinds == {int}:
            return 1, 0, len(prompt), 0
        if kinds == {list}:
            return len(prompt), 0, sum(map(_num_ids, prompt)), 0
    allowed = "a text, a list of token ids, or a list of either with at least one entry"
    raise _wrong("prompt", allowed, prompt, "send for example a text")


def _num_ids(ids: list[Any]) -> int:
    if set(map(type, ids)) != {int}:  # their range is the engine's to judge: it knows the vocabulary
        raise _wrong("prompt", "lists of token ids, at least one in each", ids, "send whole numbers, or a text")
    return len(ids)


def _measure_chat(body: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Return (1, bytes of text, 0, media parts) of `messages`, with the tools that the template writes out."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "a list with at least one message", messages, 'send [{"role": "user", "content": …}]')
    num_media = 0
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _wrong(f"messages[{index}]", "an object", message, 'send {"role": …, "content": …}')
        content = message.get("content")
        if isinstance(content, list):
            num_media += _num_media(content, f"messages[{index}].content")
        elif content is not None and not isinstance(content, str):
            raise _wrong(f"messages[{index}].content", "a text or a list of parts", content, "send a text")
    return 1, sum(map(_size, _chat_texts(body))), 0, num_media


def _num_media(parts: list[Any], field: str) -> int:
    """Check a message's parts and count those that are no text."""
    count = 0
    for index, part in enumerate(parts):
        if isinstance(part, str):
            continue
        if not isinstance(part, dict):
            raise _wrong(
                f"{field}[{index}]", "a part, an object with its type", part, 'send {"type": "text", "text": …}'
            )
        if "text" not in part:
            count += 1
        elif not isinstance(part["text"], str):
            raise _wrong(f"{field}[{index}].text", "a text", part["text"], "send a text")
    return count


def _chat_texts(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a chat template writes out: contents, calls of tools, definitions of tools. Checked before."""
    for message in body["messages"]:
        content = message.get("content")
        if isinstance(content, str):
            yield content
        elif content is not None:
            yield from (part if isinstance(part, str) else part.get("text", "") for part in content)
        if message.get("tool_calls"):
            yield encode_body({"tool_calls": message["tool_calls"]}).decode()
    if body.get("tools"):
        yield encode_body({"tools": body["tools"]}).decode()


def _prompt_texts(prompt: Any) -> Iterator[str]:
    for part in prompt if isinstance(prompt, list) else [prompt]:
        if isinstance(part, str):
            yield part


def _max_tokens(body: Mapping[str, Any], is_chat: bool) -> int | None:
    """Return the bound on each answer, in tokens; both names may be given where they agree."""
    limit = _whole(body, "max_tokens", 1, MAX_TOKENS)
    other = _whole(body, "max_completion_tokens", 1, MAX_TOKENS)
    if limit is not None and other is not None and limit != other:
        raise BadRequest(
            f"max_tokens: must equal max_completion_tokens if both are given, got {limit} and {other}; leave one out",
            param="max_tokens",
        )
    if not is_chat and "max_tokens" not in body and other is None:
        return COMPLETION_TOKENS
    return limit if other is None else other


def _num_sequences(body: Mapping[str, Any], num_prompts: int) -> int:
    answers = max(_whole(body, "n", 1, MAX_SEQUENCES) or 1, _whole(body, "best_of", 1, MAX_SEQUENCES) or 1)
    if num_prompts * answers > MAX_SEQUENCES:
        field, got = (
            ("n", answers) if num_prompts == 1 else ("prompt", f"{num_prompts} prompts with {answers} answers each")
        )
        raise BadRequest(
            f"{field}: a request may have at most {MAX_SEQUENCES} answers, got {got}; send several requests",
            param=field,
        )
    return num_prompts * answers


def _expected_tokens(body: Mapping[str, Any], max_tokens: int | None) -> int | None:
    """Return `nvext.agent_hints.osl`, at most `max_tokens`."""
    hints = _object(_object(body, "nvext", "nvext"), "agent_hints", "nvext.agent_hints")
    expected = _whole(hints, "osl", 1, MAX_TOKENS, "nvext.agent_hints.osl")
    return expected if expected is None or max_tokens is None else min(expected, max_tokens)


def _includes_usage(body: Mapping[str, Any], is_stream: bool) -> bool:
    options = _object(body, "stream_options", "stream_options")
    return _flag(options, "include_usage", "stream_options.include_usage") and is_stream


def _object(body: Mapping[str, Any], key: str, field: str) -> Mapping[str, Any]:
    value = body.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(field, "an object", value, "correct it or leave it out")
    return value


def _flag(body: Mapping[str, Any], key: str, field: str | None = None) -> bool:
    value = body.get(key)
    if value is not None and not isinstance(value, bool):
        raise _wrong(field or key, "true or false", value, "correct it or leave it out")
    return bool(value)


def _whole(body: Mapping[str, Any], key: str, low: int, high: int, field: str | None = None) -> int | None:
    """Return a whole number, None where it is not given; 100.0 is one too, as engines take it."""
    value = body.get(key)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or value != value // 1 or not low <= value <= high:
        raise _wrong(field or key, f"a whole number from {low} to {high}", value, "correct it or leave it out")
    return int(value)


def _wrong(field: str, allowed: str, got: Any, remedy: str) -> BadRequest:
    told = "nothing" if got is None else shown(got)
    return BadRequest(f"{field}: must be {allowed}, got {told}; {remedy}", param=field)


def _size(text: str) -> int:
    """Return a text's length in UTF-8; for ASCII that is known without looking."""
    return len(text) if text.isascii() else len(text.encode())
