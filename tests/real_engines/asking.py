"""A client of the OpenAI API that keeps everything it is told, the way in which an answer ended included."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 300.0


@dataclass
class Answer:
    """One answer, streamed or whole."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    token_ids: list[int] = field(default_factory=list)
    num_events: int = 0  # with choices
    finish_reason: str | None = None
    error: dict[str, Any] | None = None
    is_done: bool = False  # [DONE] came
    is_cut: bool = False  # the connection ended before the answer did


def prompt(number: int, num_tokens: int) -> list[int]:
    """Return token ids that are the same for the same number."""
    return [16 + (number * 7919 + k * k * 31 + k * 17) % 1900 for k in range(num_tokens)]


def slo_headers(ttft_ms: float, tpot_ms: float) -> dict[str, str]:
    """Return an SLO as the gateway takes it; with it the answer is to say what was decided."""
    return {"x-llm-d-slo-ttft-ms": str(ttft_ms), "x-llm-d-slo-tpot-ms": str(tpot_ms), "x-polyslo-explain": "1"}


def ask(
    url: str,
    model: str,
    ids: Sequence[int],
    output_tokens: int,
    *,
    told: Mapping[str, float] | None = None,
    headers: Mapping[str, str] | None = None,
    is_streamed: bool = True,
    on_first: Callable[[], None] | None = None,
    **more: Any,
) -> Answer:
    """Ask for exactly so many greedy tokens; `on_first` is called after the first event with a token.

    `more` goes into the body.
    """
    body = _body(model, ids, output_tokens, is_streamed) | more
    if told:
        body["vllm_xargs"] = {f"polyslo_{name}": value for name, value in told.items()}
    connection = _connect(url)
    try:
        response = _send(connection, body, headers)
        answer = Answer(response.status, {name.lower(): value for name, value in response.getheaders()})
        if is_streamed and response.status == 200:
            _read_stream(response, answer, on_first)
        else:
            _take(answer, json.loads(response.read()))
        return answer
    finally:
        connection.close()


def leave_after_first(
    url: str,
    model: str,
    ids: Sequence[int],
    output_tokens: int,
    headers: Mapping[str, str],
    before: Callable[[], object] = lambda: None,
) -> None:
    """Ask for a stream, and close the connection when its first event is there and `before` has been called."""
    connection = _connect(url)
    try:
        response = _send(connection, _body(model, ids, output_tokens, is_streamed=True), headers)
        assert response.status == 200, response.read()
        assert response.readline().startswith(b"data: {")
        before()
    finally:
        connection.close()


def ask_all(calls: Sequence[Callable[[], Answer]]) -> list[Answer]:
    """Ask at the same time; return the answers in the same order."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def _body(model: str, ids: Sequence[int], output_tokens: int, is_streamed: bool) -> dict[str, Any]:
    return {
        "model": model, "prompt": list(ids), "max_tokens": output_tokens, "temperature": 0, "ignore_eos": True,
        "return_token_ids": True, "stream": is_streamed,
    }  # fmt: skip


def _connect(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)


def _send(
    connection: http.client.HTTPConnection, body: Mapping[str, Any], headers: Mapping[str, str] | None
) -> http.client.HTTPResponse:
    content = {"content-type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body), content | dict(headers or {}))
    return connection.getresponse()


def _read_stream(response: http.client.HTTPResponse, answer: Answer, on_first: Callable[[], None] | None) -> None:
    try:
        for line in response:
            data = line.removeprefix(b"data: ").strip()
            if data == b"[DONE]":
                answer.is_done = True
            elif data:
                had = len(answer.token_ids)
                _take(answer, json.loads(data))
                if on_first is not None and had == 0 and answer.token_ids:
                    on_first()
    except (http.client.IncompleteRead, ConnectionError):
        pass  # an answer that was cut, which shows below; reading by lines mostly does not even say so
    answer.is_cut = not answer.is_done


def _take(answer: Answer, data: dict[str, Any]) -> None:
    answer.error = data.get("error", answer.error)
    answer.num_events += bool(data.get("choices"))
    for choice in data.get("choices", ()):
        answer.token_ids += choice.get("token_ids") or []
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
