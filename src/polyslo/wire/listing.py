"""The models that a server lists: `GET /v1/models`."""

from __future__ import annotations

from typing import Any

import orjson

from polyslo.wire.client import Origin
from polyslo.wire.fetch import MAX_BODY_BYTES, FetchError, fetch
from polyslo.wire.fields import Headers

MODELS = b"/v1/models"
TIMEOUT_S = 2.0


async def list_models(
    origin: Origin, credentials: Headers, *, max_body_bytes: int = MAX_BODY_BYTES
) -> list[dict[str, Any]]:
    """Ask a server; none where it does not answer in time, or with something else than a list."""
    try:
        response = await fetch(origin, b"GET", MODELS, credentials, timeout_s=TIMEOUT_S, max_body_bytes=max_body_bytes)
    except FetchError:
        return []
    return listed(response.body) if response.status == 200 else []


def listed(body: bytes) -> list[dict[str, Any]]:
    """Return a list's entries that have a name, which is their `id`; none where the answer is something else."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    data = document.get("data") if isinstance(document, dict) else None
    entries = data if isinstance(data, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
