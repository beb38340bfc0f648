"""A model as a carrier knows it: what the decider's process has told of it and its instances."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from ssl import SSLContext
from typing import TYPE_CHECKING, Any

import orjson

from polyslo.gateway.belief.tokens import estimates
from polyslo.gateway.config.slo import KeyConfig
from polyslo.gateway.front_model import Admission, Send
from polyslo.gateway.processes.carried import Carried
from polyslo.gateway.processes.carried_instance import CarriedInstance
from polyslo.gateway.processes.messages import header_texts, read_headers
from polyslo.gateway.relays.near_relay import NearRelay
from polyslo.gateway.relays.passage import Header, Passage
from polyslo.gateway.relays.places import Client
from polyslo.gateway.requests.least_ttft import LeastTtft
from polyslo.gateway.requests.request import Request
from polyslo.wire.client import Origin
from polyslo.wire.server import Exchange

if TYPE_CHECKING:  # a carrier does without what decides, and so starts in a third of the time
    from polyslo.gateway.served_model import ServedModel


class CarriedModel:
    """The `FrontModel` of a carrier."""

    def __init__(self, name: str, carried: Carried, tokenizer: str | None = None) -> None:
        """`tokenizer`: the path of one, if prompts are counted with it."""
        self.name = name
        self.tier_labels: tuple[str, ...] = ()
        self.tpots_s: tuple[float, ...] = ()
        self.kv_capacity_tokens = 0
        self.is_disaggregated = False
        self.estimates = estimates(tokenizer)  # learned from what this carrier carries
        self.least_ttft = LeastTtft()
        self.instances: dict[int, CarriedInstance] = {}
        self._carried = carried

    @property
    def destinations(self) -> Collection[CarriedInstance]:
        """See `FrontModel`."""
        return self.instances.values()

    @property
    def has_open_instance(self) -> bool:
        """Whether any instance takes requests."""
        return any(instance.is_open for instance in self.destinations)

    def admit(
        self, exchange: Exchange, body: bytes, request: Request, headers: Sequence[Header], passage: Passage
    ) -> NearRelay:
        """See `FrontModel`: the decider's process has the places, and answers where there is none."""
        return self._carried.take_in(self, exchange, body, request, headers, passage)

    def pass_on(self, exchange: Client, key: KeyConfig | None, places: Admission, send: Send) -> None:
        """See `FrontModel`: the decider's process has the places, and knows who has the least to do."""
        self._carried.ask_for_place(self, exchange, None if key is None else key.name, send)

    def adopt(self, told: Mapping[str, Any], connect_timeout_s: float, ssl: SSLContext | None = None) -> list[Origin]:
        """Be as was told; return the origins that nobody is sent to any more. See `Origins` for `ssl`."""
        self.tier_labels, self.tpots_s = tuple(told["tier_labels"]), tuple(told["tpots_s"])
        self.kv_capacity_tokens, self.is_disaggregated = told["kv_capacity_tokens"], told["is_disaggregated"]
        self.least_ttft = LeastTtft(*map(tuple, told["least_ttft"]))
        known = {instance.url: instance for instance in self.destinations}
        self.instances = {}
        for i, url, credentials, is_open in told["instances"]:
            headers, before = read_headers(credentials), known.pop(url, None)
            if before is None:
                origin = Origin(url, connect_timeout_s=connect_timeout_s, ssl=ssl)
                self.instances[i] = CarriedInstance(url, origin, headers, is_open)
            else:
                self.instances[i] = replace(before, credentials=headers, is_open=is_open)
        return [instance.origin for instance in known.values()]


def told_models(models: Mapping[str, ServedModel]) -> bytes:
    """Return what carriers are told of models."""
    return orjson.dumps(
        {
            name: {
                "tier_labels": model.tier_labels,
                "tpots_s": model.tpots_s,
                "kv_capacity_tokens": model.kv_capacity_tokens,
                "is_disaggregated": model.is_disaggregated,
                "least_ttft": (model.least_ttft.tokens, model.least_ttft.times_s),
                "instances": [
                    (instance.index, instance.url, header_texts(instance.credentials), instance.is_open)
                    for instance in model.instances
                ],
            }
            for name, model in models.items()
        }
    )
