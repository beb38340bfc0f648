"""A model as a carrier knows it: what the decider's process has told of it and its instances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from polyslo.core.state import FITS
from polyslo.gateway.carried import Carried
from polyslo.gateway.instance import Instance
from polyslo.gateway.relay import Header, NearRelay, Passage
from polyslo.gateway.request import Request
from polyslo.gateway.served_model import ServedModel
from polyslo.gateway.tokens import TokenEstimate
from polyslo.wire.client import Origin
from polyslo.wire.server import Exchange


class CarriedModel:
    """The `FrontModel` of a carrier."""

    def __init__(self, name: str, carried: Carried) -> None:
        self.name = name
        self.tier_labels: tuple[str, ...] = ()
        self.tpots_s: tuple[float, ...] = ()
        self.kv_capacity_tokens = 0
        self.estimates = (TokenEstimate(), TokenEstimate())  # learned from what this carrier carries
        self.instances: list[Instance] = []
        self._carried = carried

    @property
    def has_open_instance(self) -> bool:
        """Whether any instance takes requests."""
        return any(instance.closed == FITS for instance in self.instances)

    def admit(
        self, exchange: Exchange, body: bytes, request: Request, headers: Sequence[Header], passage: Passage
    ) -> NearRelay:
        """See `FrontModel`: the decider's process has the places, and answers where there is none."""
        return self._carried.take_in(self, exchange, body, request, headers, passage)

    def least_loaded(self, then: Callable[[Instance | None], None]) -> None:
        """See `FrontModel`."""
        self._carried.ask_for_place(self, then)

    def adopt(self, told: Mapping[str, Any], connect_timeout_s: float) -> list[Origin]:
        """Be as was told; return the origins that nobody is sent to any more."""
        self.tier_labels, self.tpots_s = tuple(told["tier_labels"]), tuple(told["tpots_s"])
        self.kv_capacity_tokens = told["kv_capacity_tokens"]
        known = {instance.url: instance for instance in self.instances}
        self.instances = []
        for i, (url, name, api_key, closed) in enumerate(told["instances"]):
            before = known.pop(url, None)
            origin = before.origin if before is not None else Origin(url, connect_timeout_s=connect_timeout_s)
            self.instances.append(Instance(i, name, url, origin, api_key, closed))
        return [instance.origin for instance in known.values()]


def told_models(models: Mapping[str, ServedModel]) -> bytes:
    """Return what carriers are told of models."""
    return orjson.dumps(
        {
            name: {
                "tier_labels": model.tier_labels,
                "tpots_s": model.tpots_s,
                "kv_capacity_tokens": model.kv_capacity_tokens,
                "instances": [
                    (instance.url, instance.name, instance.api_key, instance.closed) for instance in model.instances
                ],
            }
            for name, model in models.items()
        }
    )
