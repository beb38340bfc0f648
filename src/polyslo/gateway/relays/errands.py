"""Requests on their way to the instances that were decided on: what engines are told, how long they are waited for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from polyslo.core.state import Fleet
from polyslo.gateway.instances.instance import Instance
from polyslo.gateway.instances.roster import Roster
from polyslo.gateway.relays.errand import Errand
from polyslo.gateway.relays.placement import placement_of
from polyslo.gateway.relays.relay import Relay, gives_way
from polyslo.gateway.relays.told import receipt, told_slo, with_decode_side
from polyslo.policies.table import POLYSERVE


@dataclass(frozen=True, slots=True)
class Patience:
    """How long engines are waited for, and how often a request is tried."""

    first_byte_timeout_s: float = 300.0  # of streams: other answers come when they are whole
    idle_timeout_s: float = 60.0
    request_timeout_s: float = 1800.0  # from a request's arrival
    max_retries: int = 2


class Errands:
    """Sends the requests of one model; `tells_slos`: its engines are told what was promised."""

    def __init__(
        self,
        fleet: Fleet,
        policy: int,
        instances: Roster,
        patience: Patience,
        clock: Callable[[], float],
        *,
        tells_slos: bool,
    ) -> None:
        self._fleet = fleet
        self._policy = policy
        self._instances = instances
        self._patience = patience
        self._clock = clock
        self._tells_slos = tells_slos

    def note_placement(self, relay: Relay, i: int) -> None:
        """Note where a request is sent, and what is foreseen of it there."""
        relay.passage.placement = placement_of(
            self._fleet,
            relay.r,
            self._policy,
            self._instances[i].name,
            arrival_s=relay.request.arrival_s,
            at_s=self._clock(),
            gives_way=gives_way(relay),
        )

    def note_transfer(self, relay: Relay, i: int) -> None:
        """Note where a prefilled request goes on."""
        prefilled = relay.passage.placement
        assert prefilled is not None
        name = self._instances[i].name
        relay.passage.placement = replace(prefilled, instance=name, prefill_instance=prefilled.instance)

    def send(self, relay: Relay, i: int) -> None:
        """Send a request to an instance: for all of it, or to be prefilled there."""
        instance, now_s = self._instances[i], self._clock()
        instance.running.add(relay)
        if relay.passage.wants_receipt:
            relay.receipt = receipt(relay, self._fleet, instance.name, now_s)
        if self._fleet.requests[relay.r]["hands_over"]:
            relay.prefill(self._errand(relay, instance, self._patience.first_byte_timeout_s))
        else:
            self._send_whole(relay, instance)

    def send_on(self, relay: Relay, i: int) -> None:
        """Send a prefilled request to its decode instance."""
        instance = self._instances[i]
        assert relay.at.is_prefilled
        assert relay.at.instance is not None
        self._instances[relay.at.instance].running.discard(relay)
        instance.running.add(relay)
        relay.receipt = with_decode_side(relay.receipt, instance.name)
        self._send_whole(relay, instance)

    def _send_whole(self, relay: Relay, instance: Instance) -> None:
        patience, is_streamed = self._patience, relay.request.is_streamed
        timeout_s = patience.first_byte_timeout_s if is_streamed else patience.request_timeout_s
        relay.send(self._errand(relay, instance, timeout_s))

    def _errand(self, relay: Relay, instance: Instance, first_byte_timeout_s: float) -> Errand:
        i, idle_timeout_s = instance.index, self._patience.idle_timeout_s
        return Errand(
            i,
            instance.origin,
            self._told(relay, i),
            instance.credentials,
            first_byte_timeout_s,
            idle_timeout_s,
            instance.event_tokens,
            gives_way(relay) and self._policy == POLYSERVE,
        )

    def _told(self, relay: Relay, i: int) -> dict[str, float] | None:
        """Return what instance `i` is told of a request; None where engines are told nothing."""
        if not self._tells_slos:
            return None
        budget_s = float(self._fleet.instances["budget_s"][i])
        return told_slo(relay, self._fleet.requests[relay.r], budget_s, self._clock())
