"""Asking a server which model it serves: also the test that it can be reached, before the replay begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polyslo.errors import InputError
from polyslo.load.letters import Headers
from polyslo.load.target import Address
from polyslo.load.tokens import error_text
from polyslo.wire.client import Origin
from polyslo.wire.fetch import FetchError, fetch
from polyslo.wire.listing import listed

ASK_TIMEOUT_S = 10.0
_OK = 200


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model's name, and how many tokens prompt and output may have together where the server says it."""

    name: str
    max_context_tokens: int | None = None


async def ask_model(origin: Origin, address: Address, headers: Headers, name: str | None) -> ServedModel:
    """Return the model that a server serves, or what it says of the one called `name`.

    Raises `InputError` where the server can't be reached, and, without a name, where it doesn't tell one model.
    """
    url = f"{address.origin}{address.prefix}/v1/models"
    target = f"{address.prefix}/v1/models".encode()
    try:
        response = await fetch(origin, b"GET", target, headers, timeout_s=ASK_TIMEOUT_S)
    except FetchError as error:
        detail = error.failure.detail.removeprefix(f"{origin!r}: ")
        raise InputError(
            f"{address.origin}: can't be reached, {detail}; start the server there, or correct --url"
        ) from error
    if response.status != _OK and name is None:
        raise InputError(
            f"{url}: must list the models, got HTTP {response.status} {error_text(response.body)}; set --model, or "
            "--api-key where it is missing"
        )
    return _choose(listed(response.body), name, url)


def _choose(entries: list[dict[str, Any]], name: str | None, url: str) -> ServedModel:
    """Choose the entry of that name, or the only one. A name that is not listed may be an alias: it is taken."""
    if name is None and len(entries) != 1:
        names = ", ".join(entry["id"] for entry in entries) or "none"
        raise InputError(f"{url}: must list one model, got {names}; choose with --model")
    for entry in entries:
        if name in (None, entry["id"]):
            context = entry.get("max_model_len")  # vLLM and SGLang say it
            return ServedModel(entry["id"], context if isinstance(context, int) else None)
    assert name is not None
    return ServedModel(name)
