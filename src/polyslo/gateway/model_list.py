"""`GET /v1/models` of a gateway with several models: what their instances answer, as one list."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from polyslo.gateway.front_model import FrontModel
from polyslo.gateway.openai_errors import JSON_HEADERS
from polyslo.wire.fetch import FetchError, fetch
from polyslo.wire.server import Exchange

MODELS = b"/v1/models"
TIMEOUT_S = 2.0


class ModelList:
    """Answers for several models, each asked at one of its instances."""

    def __init__(self, models: Mapping[str, FrontModel]) -> None:
        self._models = models
        self._tasks: set[asyncio.Task[None]] = set()

    def answer(self, exchange: Exchange) -> None:
        """Answer once every model was asked; one whose instance does not answer is listed by its name alone."""
        task = asyncio.get_running_loop().create_task(self._answer(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        exchange.on_gone = lambda: _cancel(task)

    async def _answer(self, exchange: Exchange) -> None:
        cards = await asyncio.gather(*(_card(model) for model in self._models.values()))
        exchange.on_gone = None
        exchange.respond(200, JSON_HEADERS, orjson.dumps({"object": "list", "data": cards}))


async def _card(model: FrontModel) -> dict[str, Any]:
    """Return what a model's instance says of it: only the name that requests here must use counts."""
    plain = {"id": model.name, "object": "model", "created": 0, "owned_by": "polyslo"}
    instance = next((instance for instance in model.destinations if instance.is_open), None)
    if instance is None:
        return plain
    try:
        response = await fetch(instance.origin, b"GET", MODELS, instance.credentials, timeout_s=TIMEOUT_S)
        cards = orjson.loads(response.body)["data"] if response.status == 200 else []
        return next((card for card in cards if card["id"] == model.name), plain)
    except (FetchError, orjson.JSONDecodeError, LookupError, TypeError):
        return plain


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
