"""The bytes of an answer as vLLM writes them: events of a stream, and the body of a whole answer.

What is the same in all chunks of a stream is made once. A plain chunk, which nearly all are, is then its word
between two constants: that, not the engine, is what a token costs.
"""

from __future__ import annotations

from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"


class Chunks:
    """The chunks of one stream; `head` + word + `tail` is a plain one."""

    __slots__ = ("_choice", "_end", "_envelope", "_is_chat", "head", "tail")

    def __init__(self, is_chat: bool, request_id: str, created_s: int, model: str) -> None:
        kind = "chat.completion.chunk" if is_chat else "text_completion"
        self._envelope = orjson.dumps({"id": request_id, "object": kind, "created": created_s, "model": model})[:-1]
        self._is_chat = is_chat
        self._choice = b'"delta":{"content":"' if is_chat else b'"text":"'
        self._end = b'"}' if is_chat else b'"'
        self.head = b"data: " + self._envelope + b',"choices":[{"index":0,' + self._choice
        self.tail = self._end + self._facts(None, None, None) + b"}]}\n\n"

    def opening(self, prompt_ids: list[int] | None, usage: tuple[int, int] | None = None) -> bytes:
        """Return what comes before the first token of a chat: its role; b"" for a completion."""
        if not self._is_chat:
            return b""
        role = (
            b',"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        )
        shown = b',"prompt_token_ids":' + _json(prompt_ids) + _usage(usage)
        return b"data: " + self._envelope + role + shown + b"}\n\n"

    def chunk(
        self,
        text: bytes,
        *,
        finish_reason: str | None = None,
        token_ids: list[int] | None = None,
        prompt_ids: list[int] | None = None,
        usage: tuple[int, int] | None = None,
    ) -> bytes:
        """Return any chunk; `usage` is (prompt tokens, output tokens so far)."""
        facts = self._facts(finish_reason, token_ids, prompt_ids)
        return self.head + text + self._end + facts + b"}]" + _usage(usage) + b"}\n\n"

    def usage_chunk(self, input_tokens: int, output_tokens: int) -> bytes:
        """Return the chunk with the usage, which comes after the last token."""
        usage = usage_json(input_tokens, output_tokens)
        return b"data: " + self._envelope + b',"choices":[],"usage":' + usage + b"}\n\n"

    def _facts(self, finish_reason: str | None, token_ids: list[int] | None, prompt_ids: list[int] | None) -> bytes:
        reason, ids = _json(finish_reason), _json(token_ids)
        if not self._is_chat:
            shown = b',"logprobs":null,"finish_reason":%b,"stop_reason":null,"prompt_token_ids":%b,"token_ids":%b'
            return shown % (reason, _json(prompt_ids), ids)
        stop = b"" if finish_reason is None else b',"stop_reason":null'
        return b',"logprobs":null,"finish_reason":%b%b,"token_ids":%b' % (reason, stop, ids)


def whole_answer(
    is_chat: bool,
    request_id: str,
    created_s: int,
    model: str,
    text: bytes,
    finish_reason: str,
    usage: tuple[int, int],
    token_ids: list[int] | None,
    prompt_ids: list[int] | None,
    kv_transfer_params: dict[str, Any] | None = None,
) -> bytes:
    """Return the body of an answer that is not streamed."""
    choice: dict[str, Any] = {
        "index": 0,
        "logprobs": None,
        "finish_reason": finish_reason,
        "stop_reason": None,
        "token_ids": token_ids,
    }
    if is_chat:
        choice["message"] = {"role": "assistant", "content": text.decode()}
    else:
        choice |= {"text": text.decode(), "prompt_token_ids": prompt_ids}
    body: dict[str, Any] = {
        "id": request_id,
        "object": "chat.completion" if is_chat else "text_completion",
        "created": created_s,
        "model": model,
        "choices": [choice],
        "usage": orjson.Fragment(usage_json(*usage)),
    }
    if is_chat:
        body["prompt_token_ids"] = prompt_ids
    if kv_transfer_params is not None:
        body["kv_transfer_params"] = kv_transfer_params
    return orjson.dumps(body)


def usage_json(input_tokens: int, output_tokens: int) -> bytes:
    """Return a usage object."""
    return b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}' % (
        input_tokens,
        input_tokens + output_tokens,
        output_tokens,
    )


def _usage(counts: tuple[int, int] | None) -> bytes:
    return b"" if counts is None else b',"usage":' + usage_json(*counts)


def _json(value: str | list[int] | None) -> bytes:
    return b"null" if value is None else orjson.dumps(value)
