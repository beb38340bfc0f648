"""What an answer to `GET /v1/models` lists."""

from __future__ import annotations

from typing import Any

import orjson


def listed(body: bytes) -> list[dict[str, Any]]:
    """Return a list's entries that have a name, which is their `id`; none where the answer is something else."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    data = document.get("data") if isinstance(document, dict) else None
    entries = data if isinstance(data, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
