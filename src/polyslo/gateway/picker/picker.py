"""Whether requests are picked for, and who does it: where the configuration gives a port for Envoy.

gRPC's packages are an extra; they are imported only when there is such a port.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from polyslo.errors import ConfigError
from polyslo.gateway.config.gateway import GatewayConfig
from polyslo.gateway.config.models import DISAGGREGATED
from polyslo.gateway.front import Front
from polyslo.gateway.front_model import Admission
from polyslo.gateway.picker.picked_exchange import PickedExchange
from polyslo.gateway.picker.picks import Picks
from polyslo.gateway.relays.listeners import Doorkeeper
from polyslo.gateway.served_model import ServedModel

PACKAGES = ("grpc", "google.protobuf")
MISSING = "needs gRPC and protobuf, which are not installed; pip install 'polyslo[envoy]'"


class Picker:
    """A front door of its own to the same models and places, and its port."""

    def __init__(
        self, config: GatewayConfig, models: Mapping[str, ServedModel], places: Admission, doorkeeper: Doorkeeper
    ) -> None:
        """Raises `ConfigError` for what can't be picked for."""
        for mistake in unpickable(config):
            raise ConfigError(mistake)
        self.front: Front[PickedExchange] = Front(config, models, places, Picks(models), doorkeeper=doorkeeper)
        self._models = models
        ext_proc: Any = import_module("polyslo.gateway.picker.ext_proc")
        self.port = ext_proc.ExtProc(config.server, self.front.handle, self._is_ready)

    def _is_ready(self) -> bool:
        has_instance = any(model.has_open_instance for model in self._models.values())
        return has_instance and not self.front.is_draining


def unpickable(config: GatewayConfig) -> Iterator[str]:
    """Yield why the configuration's port for Envoy can't be served."""
    if config.server.ext_proc_port is None:
        return
    if not has_packages():
        yield f"server.ext_proc_port: {MISSING}"
    for model in config.models:
        if model.mode == DISAGGREGATED:
            yield (
                f"server.ext_proc_port: model {model.name!r} prefills and decodes apart, but who carries a request for "
                'Envoy can\'t hand its KV over; leave the port out, or set mode = "co"'
            )


def has_packages() -> bool:
    """Tell whether the extra is installed."""
    try:
        return all(find_spec(name) is not None for name in PACKAGES)
    except ModuleNotFoundError:  # a parent of one
        return False
