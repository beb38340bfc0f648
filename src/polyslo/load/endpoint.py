"""Asking a server which model it serves: also the test that it can be reached, before the replay begins."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson

from polyslo.errors import InputError
from polyslo.load.letters import Headers
from polyslo.load.target import Address
from polyslo.load.tokens import error_text
from polyslo.wire.client import Failure, Origin

ASK_TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 4 << 20
_OK = 200


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model's name, and how many tokens prompt and output may have together where the server says it."""

    name: str
    max_context_tokens: int | None = None


class _Answer:
    """A short answer, kept whole: a sink of the wire."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.ended: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Keep the status."""
        self.status = status

    def on_data(self, data: bytes) -> None:
        """Keep the beginning."""
        self.body = (self.body + data)[:MAX_ANSWER_BYTES]

    def on_end(self) -> None:
        """Wake who waits."""
        if not self.ended.done():
            self.ended.set_result(None)

    def on_failure(self, failure: Failure) -> None:
        """Wake who waits, with the failure."""
        if not self.ended.done():
            self.ended.set_result(failure)


async def ask_model(
    origin: Origin, address: Address, headers: Headers, name: str | None, *, timeout_s: float = ASK_TIMEOUT_S
) -> ServedModel:
    """Return the model that a server serves, or what it says of the one called `name`.

    Raises `InputError` where the server can't be reached, and, without a name, where it doesn't tell one model.
    """
    url = f"{address.origin}{address.prefix}/v1/models"
    answer = _Answer()
    target = f"{address.prefix}/v1/models".encode()
    call = origin.send(b"GET", target, headers, b"", answer, head_timeout_s=timeout_s, idle_timeout_s=timeout_s)
    try:
        failure = await answer.ended
    except asyncio.CancelledError:
        call.abort()
        raise
    if failure is not None:
        raise InputError(
            f"{address.origin}: can't be reached, {failure.kind}: {failure.detail}; start the server or correct --url"
        )
    if answer.status != _OK and name is None:
        raise InputError(
            f"{url}: expected the list of models, got HTTP {answer.status} {_said(answer.body)}".rstrip()
            + "; set --model, or --api-key where it is missing"
        )
    return _choose(_entries(answer), name, url)


def _choose(entries: list[dict[str, Any]], name: str | None, url: str) -> ServedModel:
    """Choose the entry of that name, or the only one. A name that is not listed may be an alias: it is taken."""
    if name is None and len(entries) != 1:
        names = ", ".join(str(entry["id"]) for entry in entries) or "none"
        raise InputError(f"{url}: must list one model, got {names}; choose with --model")
    for entry in entries:
        if name in (None, entry["id"]):
            context = entry.get("max_model_len")  # vLLM and SGLang say it
            return ServedModel(str(entry["id"]), context if isinstance(context, int) else None)
    assert name is not None
    return ServedModel(name)


def _entries(answer: _Answer) -> list[dict[str, Any]]:
    """Return the list's entries that have an id; none where the answer is something else."""
    try:
        document = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return []
    data = document.get("data") if isinstance(document, dict) else None
    return [entry for entry in data if isinstance(entry, dict) and "id" in entry] if isinstance(data, list) else []


def _said(body: bytes) -> str:
    try:
        return error_text(orjson.loads(body))
    except orjson.JSONDecodeError:
        return error_text(body[:200].decode("utf-8", "replace"))
