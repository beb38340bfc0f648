"""Who may be under way at the same time: so many in all, so many of an API key; who finds no place waits in line.

The line is first come, first served, bounded in length and in time. What waits there counts for its key already, and
its SLO's clock runs. Whoever waits has not been decided about: this bounds the gateway, the fleet bounds itself. What
is passed on without a decision has a place, too, and waits in the same line.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from polyslo.gateway.config.server import ServerConfig
from polyslo.gateway.config.slo import KeyConfig
from polyslo.gateway.relays.listeners import NOBODY_AT_THE_DOOR, Doorkeeper, Visitor
from polyslo.gateway.relays.passage import Header
from polyslo.gateway.relays.relay import Relay
from polyslo.gateway.requests.body import GENERATIONS
from polyslo.gateway.requests.openai_errors import Refusal
from polyslo.gateway.surroundings import Handle, Loop

if TYPE_CHECKING:
    from polyslo.gateway.served_model import ServedModel

Enter = Callable[[], Refusal | None]


class Client(Visitor, Protocol):
    """Who asks for a place."""

    on_gone: Callable[[], None] | None

    def respond(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Send a whole response."""


@dataclass(frozen=True, slots=True)
class Waiter:
    """A request in line."""

    enter: Enter
    key_name: str | None
    expiry: Handle


class Places:
    """Gives out places; a `Listener`, because whoever is over gives its place back."""

    def __init__(
        self, server: ServerConfig, loop: Loop | None = None, doorkeeper: Doorkeeper = NOBODY_AT_THE_DOOR
    ) -> None:
        self._server = server
        self._loop: Loop = loop or asyncio.get_running_loop()
        self._doorkeeper = doorkeeper
        self._line: OrderedDict[Client, Waiter] = OrderedDict()
        self._num_taken = 0
        self._num_of_key: dict[str, int] = {}

    @property
    def num_taken(self) -> int:
        """Requests under way."""
        return self._num_taken

    @property
    def num_waiting(self) -> int:
        """Requests in line."""
        return len(self._line)

    def take(self, exchange: Client, key: KeyConfig | None, enter: Enter) -> Refusal | None:
        """Call `enter` in a place, now or when it is this request's turn; a refusal where there is not even a wait."""
        if key is not None and self._is_key_full(key):
            limit = key.max_concurrent_requests
            return Refusal("saturated", f"this API key may have {limit} requests under way; ask again when one ends")
        must_wait = bool(self._line) or self._num_taken >= self._server.max_concurrent_requests
        if must_wait and len(self._line) >= self._server.queue_size:
            return Refusal("saturated", "as many requests as may be are under way or wait; ask again later")
        name = None if key is None else key.name
        if name is not None:
            self._num_of_key[name] = self._num_of_key.get(name, 0) + 1
        if not must_wait:
            return self._enter(enter, name)
        expiry = self._loop.call_later(self._server.queue_timeout_s, self._expire, exchange)
        self._line[exchange] = Waiter(enter, name, expiry)
        exchange.on_gone = lambda: self._give_up(exchange)
        return None

    def turn_away(self, refusal: Refusal) -> None:
        """Answer everybody in line with the same refusal: the gateway shuts down."""
        for exchange in list(self._line):
            self._leave_line(exchange)
            self._answer(exchange, refusal)

    def arrived(self, relay: Relay) -> None:
        """See `Listener`."""

    def decided(self, model: ServedModel, relay: Relay, kind: int, i: int) -> None:
        """See `Listener`."""

    def moved(self, model: ServedModel, i: int) -> None:
        """See `Listener`."""

    def health_changed(self, model: ServedModel, i: int) -> None:
        """See `Listener`."""

    def finished(self, relay: Relay, outcome: str) -> None:
        """See `Listener`: its place goes to the next in line, but not before its record is free."""
        self.leave(relay.passage.key_name)

    def leave(self, key_name: str | None) -> None:
        """See `Admission`."""
        self._num_taken -= 1
        self._forget_key(key_name)
        if self._line:
            self._loop.call_soon(self._admit_next)

    def _is_key_full(self, key: KeyConfig) -> bool:
        limit = key.max_concurrent_requests
        return limit is not None and self._num_of_key.get(key.name, 0) >= limit

    def _enter(self, enter: Enter, name: str | None) -> Refusal | None:
        self._num_taken += 1
        refusal = enter()
        if refusal is not None:
            self._num_taken -= 1
            self._forget_key(name)
        return refusal

    def _admit_next(self) -> None:
        while self._line and self._num_taken < self._server.max_concurrent_requests:
            exchange, waiter = self._line.popitem(last=False)
            waiter.expiry.cancel()
            exchange.on_gone = None
            refusal = self._enter(waiter.enter, waiter.key_name)
            if refusal is not None:
                self._answer(exchange, refusal)

    def _expire(self, exchange: Client) -> None:
        self._leave_line(exchange)
        self._answer(exchange, Refusal("expired", "the request waited too long for a place; ask again later"))

    def _give_up(self, exchange: Client) -> None:
        self._leave_line(exchange)
        self._tell(exchange, "cancelled")

    def _leave_line(self, exchange: Client) -> None:
        waiter = self._line.pop(exchange)
        waiter.expiry.cancel()
        exchange.on_gone = None
        self._forget_key(waiter.key_name)

    def _forget_key(self, name: str | None) -> None:
        if name is None:
            return
        self._num_of_key[name] -= 1
        if not self._num_of_key[name]:
            del self._num_of_key[name]

    def _answer(self, exchange: Client, refusal: Refusal) -> None:
        answer = refusal.answer()
        exchange.respond(answer.status, answer.headers, answer.body)
        self._tell(exchange, refusal.kind)

    def _tell(self, exchange: Client, reason: str) -> None:
        if exchange.path in GENERATIONS:
            self._doorkeeper.turned_away(exchange, reason)
