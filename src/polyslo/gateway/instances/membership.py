"""Who serves a model, while it is served: instances join and leave.

One that joins gets a free slot of the fleet and its first requests when a look at it was good. One that leaves gets
nothing new; when its last request is over it is gone and its slot is free. Opening and closing are inputs of the
decider, so that a journal has them. Source: ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from polyslo.core.state import ABSENT, DRAINING, EITHER, PREFILL_ONLY
from polyslo.gateway.config.models import EndpointConfig
from polyslo.gateway.fleets import ROLES
from polyslo.gateway.instances.instance import Instance
from polyslo.gateway.requests.openai_errors import Refusal
from polyslo.gateway.served_model import ServedModel
from polyslo.gateway.surroundings import Handle, Loop
from polyslo.wire.client import Origin

HELD = ("num_residents", "num_own", "num_queued", "num_decodes", "kv_tokens")  # by an instance with work to do
LOOK_S = 0.1  # between two looks at whether an instance that leaves has become empty

log = logging.getLogger("polyslo")


class Connections(Protocol):
    """Who opens and closes origins: see `Origins`."""

    def open(self, url: str) -> Origin:
        """Return an origin."""

    def close(self, origin: Origin) -> None:
        """Close its connections; what is under way there fails."""


class Watch(Protocol):
    """Who looks at instances: see `Health`."""

    def watch(self, instance: Instance) -> None:
        """Look at an instance from now on."""

    def forget(self, i: int) -> None:
        """Look at a slot's instance no more."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An instance that a file lists, and for which there is no place yet."""

    endpoint: EndpointConfig
    source: str
    api_key: str | None


class Membership:
    """The instances of one served model, as they come and go; `tell(slot, name, is_there, role)` hears of each."""

    def __init__(
        self,
        model: ServedModel,
        watch: Watch,
        connections: Connections,
        loop: Loop,
        tell: Callable[[int, str, bool, int], None] | None = None,
    ) -> None:
        self.model = model
        self._watch = watch
        self._connections = connections
        self._loop = loop
        self._tell = tell
        self._timer: Handle | None = None
        self._waiting: list[_Waiting] = []  # as many as a file lists

    def join(self, endpoint: EndpointConfig, source: str, api_key: str | None = None) -> Instance | Refusal:
        """Take in an instance, opened by the first good look at it; one that is just leaving stays."""
        roster = self.model.instances
        known = roster.find(endpoint.url) or roster.find(endpoint.title)
        if known is not None:
            return self._stay(known, endpoint, source)
        i = self._free_slot(ROLES[endpoint.role])
        if i is None:
            return self._no_room(endpoint)
        instance = Instance(
            index=i,
            name=endpoint.title,
            url=endpoint.url,
            origin=self._connections.open(endpoint.url),
            api_key=api_key,
            closed=ABSENT,
            role=endpoint.role,
            labels=endpoint.labels,
            source=source,
            is_joining=True,
            was_open=False,
        )
        roster.put(instance)
        self._note(instance, is_there=True, role=ROLES[endpoint.role])
        self._watch.watch(instance)
        return instance

    def leave(self, instance: Instance, *, at_once: bool = False) -> None:
        """Send an instance nothing new; it is gone when its requests are over.

        `at_once`: they go to other instances where nothing of their answers was sent yet, and are cut elsewhere. What
        other instances fetch from it (PD), or what it is foreseen for, is still waited for.
        """
        i = instance.index
        if not instance.is_leaving:
            instance.is_leaving, instance.is_joining = True, False
            self._watch.forget(i)
            self.model.close_instance(i, DRAINING)
        if at_once:
            for relay in list(instance.running):
                if relay in instance.running:  # what is decided about one may move or end another
                    relay.lose_instance()
            self.model.take_news()
            if self._holds_nothing(instance):
                self._go(instance)
                return
        self._look()

    def sync(self, endpoints: Sequence[EndpointConfig], source: str, api_keys: Sequence[str | None]) -> list[str]:
        """Let join and leave what a source of instances lists now; return what changes, in words.

        What another source told of stays as it is. Who finds no place waits until one that leaves is gone.
        """
        told = []
        wanted = {endpoint.url: (endpoint, api_key) for endpoint, api_key in zip(endpoints, api_keys, strict=True)}
        self._waiting = [one for one in self._waiting if one.source != source]
        for instance in self.model.instances:
            if instance.source == source and not instance.is_leaving and not _is_same(instance, wanted):
                self.leave(instance)
                told.append(f"{instance.name} leaves")
        for endpoint, api_key in wanted.values():
            known = self.model.instances.find(endpoint.url)
            if known is not None and not known.is_leaving:
                continue
            joined = self.join(endpoint, source, api_key)
            if isinstance(joined, Refusal):
                self._waiting.append(_Waiting(endpoint, source, api_key))
                log.warning("%s waits: %s", endpoint.title, joined.message)
            told.append(f"{endpoint.title} {'waits' if isinstance(joined, Refusal) else 'joins'}")
        return told

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _stay(self, known: Instance, endpoint: EndpointConfig, source: str) -> Instance | Refusal:
        is_same = (known.url, known.name, known.role) == (endpoint.url, endpoint.title, endpoint.role)
        if not is_same or not known.is_leaving:
            return Refusal("already_there", f"{known.name!r} at {known.url} is there; remove that one first")
        known.is_leaving, known.is_joining, known.source = False, True, source
        self._watch.watch(known)
        return known

    def _look(self) -> None:
        """Let those go that have nothing left to do; look again while there are others."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        for instance in self.model.instances:
            if instance.is_leaving and self._is_at_rest(instance):
                self._go(instance)
        if any(instance.is_leaving for instance in self.model.instances):
            self._timer = self._loop.call_later(LOOK_S, self._look)

    def _is_at_rest(self, instance: Instance) -> bool:
        """Tell whether nothing is sent to it, and nothing believed to be there."""
        origin = instance.origin
        return self._holds_nothing(instance) and origin.num_connections == origin.num_idle

    def _holds_nothing(self, instance: Instance) -> bool:
        """Tell whether no request is there, foreseen there, or fetched from there (PD), by belief too.

        Belief may learn with the next digest only that a request has ended.
        """
        record = self.model.fleet.instances[instance.index]
        return not instance.running and not any(record[name] for name in HELD)

    def _go(self, instance: Instance) -> None:
        i = instance.index
        self.model.close_instance(i, ABSENT)
        if self.model.reconciliation is not None:
            self.model.reconciliation.forget(i)
        self.model.instances.remove(i)
        self._connections.close(instance.origin)
        self._note(instance, is_there=False, role=EITHER)
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if isinstance(self.join(one.endpoint, one.source, one.api_key), Refusal):
                self._waiting.append(one)

    def _free_slot(self, role: int) -> int | None:
        """Return a slot for an instance of a role; where groups are fixed it must be one of that side (PD)."""
        fleet, vacant = self.model.fleet, self.model.instances.vacant
        if fleet.settings["elastic"][0] or not self.model.is_disaggregated:
            return vacant[0] if vacant else None
        prefills = fleet.instances["group"] == len(fleet.tpots_s)
        return next((i for i in vacant if role == EITHER or prefills[i] == (role == PREFILL_ONLY)), None)

    def _no_room(self, endpoint: EndpointConfig) -> Refusal:
        side = f" to {endpoint.role}" if endpoint.role is not None and self.model.is_disaggregated else ""
        return Refusal(
            "no_room",
            f"model {self.model.name!r} has room for {self.model.instances.num_slots} instances, all those{side} are "
            "there; set max_instances of [[models]]",
        )

    def _note(self, instance: Instance, *, is_there: bool, role: int) -> None:
        self.model.decider.give_role(instance.index, role)
        if self._tell is not None:
            self._tell(instance.index, instance.name, is_there, role)


def _is_same(instance: Instance, wanted: Mapping[str, tuple[EndpointConfig, str | None]]) -> bool:
    """Tell whether an instance is listed as it is; its labels are taken over."""
    if instance.url not in wanted:
        return False
    endpoint, _ = wanted[instance.url]
    instance.labels = endpoint.labels
    return (instance.name, instance.role) == (endpoint.title, endpoint.role)
