"""Everybody who looks at a model's engines, as one."""

from __future__ import annotations

from polyslo.gateway.belief.engine_watch import EngineWatch
from polyslo.gateway.instances.health import Health
from polyslo.gateway.instances.instance import Instance
from polyslo.gateway.instances.served_names import ServedNames
from polyslo.gateway.stopping import stop_all


class Lookouts:
    """A model's health and what its engines say of themselves; the `Watch` of its membership."""

    def __init__(self, health: Health, engines: EngineWatch, names: ServedNames) -> None:
        self._each = health, engines
        self._names = names  # told by `health` whom to ask

    def watch(self, instance: Instance) -> None:
        """Look at an instance from now on."""
        for one in self._each:
            one.watch(instance)

    def forget(self, i: int) -> None:
        """Look at a slot's instance no more."""
        for one in self._each:
            one.forget(i)

    async def stop(self) -> None:
        """Look at nobody any more."""
        await stop_all(one.stop for one in (*self._each, self._names))
