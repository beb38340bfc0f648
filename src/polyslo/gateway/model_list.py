"""Models by name: `GET /v1/models` of a gateway with several, and `GET /v1/models/NAME`, which vLLM does not have."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

import orjson

from polyslo.gateway.front_model import FrontModel
from polyslo.gateway.relays.places import Client
from polyslo.gateway.requests.openai_errors import JSON_HEADERS, Refusal
from polyslo.wire.listing import list_models


class ModelList:
    """Answers for models, each asked at one of its instances."""

    def __init__(self, models: Mapping[str, FrontModel]) -> None:
        self._models = models
        self._tasks: set[asyncio.Task[None]] = set()

    def answer(self, exchange: Client) -> None:
        """Answer once every model was asked; one whose instance does not answer is listed by its name alone."""
        self._run(exchange, self._list(exchange))

    def answer_one(self, exchange: Client, model: FrontModel, name: str) -> None:
        """Answer with the card that an instance of `model` has under that name, or that there is none."""
        self._run(exchange, self._one(exchange, model, name))

    def _run(self, exchange: Client, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        exchange.on_gone = lambda: _cancel(task)

    async def _list(self, exchange: Client) -> None:
        cards = await asyncio.gather(*(_card(model, model.name) for model in self._models.values()))
        shown = [card or _plain(name) for card, name in zip(cards, self._models, strict=True)]
        exchange.on_gone = None
        exchange.respond(200, JSON_HEADERS, orjson.dumps({"object": "list", "data": shown}))

    async def _one(self, exchange: Client, model: FrontModel, name: str) -> None:
        card = await _card(model, name) or (_plain(name) if name in self._models else None)
        exchange.on_gone = None
        if card is None:
            told = f"model: no model {name[:200]!r}; GET /v1/models lists them"
            answer = Refusal("unknown_model", told, "model").answer()
            exchange.respond(answer.status, answer.headers, answer.body)
        else:
            exchange.respond(200, JSON_HEADERS, orjson.dumps(card))


async def _card(model: FrontModel, name: str) -> Any:
    """Return what a model's instance says of `name`: only names that requests here must use count; None of nothing."""
    instance = next((instance for instance in model.destinations if instance.is_open), None)
    if instance is None:
        return None
    cards = await list_models(instance.origin, instance.credentials)
    return next((card for card in cards if card["id"] == name), None)


def _plain(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "polyslo"}


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
