"""The decider's process towards one carrier: what it tells of its requests becomes calls of the served models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic

import orjson

from polyslo.gateway.config.slo import KeyConfig
from polyslo.gateway.front import SHUTTING_DOWN
from polyslo.gateway.front_model import Admission, Leave
from polyslo.gateway.instances.instance import Instance
from polyslo.gateway.processes import messages
from polyslo.gateway.processes.carried_model import told_models
from polyslo.gateway.processes.far_relay import FarExchange, FarRelay, FarVisitor
from polyslo.gateway.processes.link import Messenger
from polyslo.gateway.processes.messages import Said, Told
from polyslo.gateway.relays.listeners import NOBODY_AT_THE_DOOR, Doorkeeper
from polyslo.gateway.relays.passage import Passage
from polyslo.gateway.relays.relay import removed
from polyslo.gateway.requests.body import CHAT, COMPLETIONS
from polyslo.gateway.requests.openai_errors import NO_INSTANCE, Refusal
from polyslo.gateway.requests.request import Request
from polyslo.gateway.requests.trace_context import context_headers
from polyslo.gateway.served_model import ServedModel
from polyslo.wire.client import Failure, Origin


class Desk:
    """One carrier's requests; the `Carrier` of their relays."""

    def __init__(
        self,
        messenger: Messenger,
        models: Mapping[str, ServedModel],
        places: Admission,
        keys: Mapping[str, KeyConfig],
        clock: Callable[[], float] = monotonic,
        doorkeeper: Doorkeeper = NOBODY_AT_THE_DOOR,
    ) -> None:
        self._messenger = messenger
        self._models = models
        self._places = places
        self.keys = keys  # by name; may be replaced
        self._clock = clock
        self._doorkeeper = doorkeeper
        self._clients: dict[int, FarExchange] = {}
        self._relays: dict[int, FarRelay] = {}  # of clients that have a place
        self._passing: dict[int, Leave] = {}  # what is passed on, and how it gives its place back
        self._told_models = b""
        self._introduced: dict[tuple[str, int], Origin] = {}  # instances that the carrier knows, by model and slot
        self.is_draining = False

    @property
    def num_under_way(self) -> int:
        """Requests that wait for a place or have one."""
        return len(self._clients)

    def tell(self, kind: int, number: int, content: bytes = b"") -> None:
        """See `Carrier`."""
        self._messenger.tell(kind, number, content)

    def forget(self, number: int) -> None:
        """See `Carrier`."""
        self._clients.pop(number, None)
        self._relays.pop(number, None)
        self._passing.pop(number, None)

    def tell_models(self) -> None:
        """Tell of models and instances as they are now, where that is new."""
        models = told_models(self._models)
        if models == self._told_models:
            return
        self._told_models = models
        self._introduced = {
            (name, instance.index): instance.origin
            for name, model in self._models.items()
            for instance in model.instances
        }
        self._messenger.tell(Told.MODELS, 0, models)

    def introduce(self, model: ServedModel, i: int, origin: Origin) -> None:
        """See `Carrier`."""
        if self._introduced.get((model.name, i)) is not origin:
            self.tell_models()

    def fail(self, relay: FarRelay, failure: Failure | int) -> None:
        """See `Carrier`; an instance failed a request: another one is tried, or its client is told."""
        if relay.model.failed(relay, failure):
            return
        if relay.has_started:
            relay.break_off()
        elif isinstance(failure, int):
            relay.let_through()

    def take(self, kind: int, number: int, content: bytes) -> None:
        """Take in what the carrier tells; of requests that are over it can't know yet."""
        if kind == Said.NEWS:
            self._see(content)
        elif kind == Said.ARRIVAL:
            self._receive(number, content)
        elif kind == Said.TURNED_AWAY:
            path, headers, reason = messages.read_turned_away(content)
            self._doorkeeper.turned_away(FarVisitor(path, headers), reason)
        elif kind == Said.PLACE:
            self._place(number, content)
        elif number in self._relays:
            self._follow(self._relays[number], kind, content)
        elif kind in (Said.LEFT, Said.PASSED) and number in self._clients:
            self._let_leave(number)

    def lose_all(self) -> int:
        """The carrier is gone, and with it all its requests; return how many."""
        lost = self.num_under_way
        for number in list(self._clients):
            relay = self._relays.get(number)
            if relay is not None:
                self.forget(number)
                relay.model.lost(relay)
            else:
                self._let_leave(number)
        return lost

    def _let_leave(self, number: int) -> None:
        """Take note that what has no relay is over: in line, or passed on."""
        leave = self._passing.get(number, self._clients[number].leave)
        self.forget(number)
        leave()

    def _receive(self, number: int, content: bytes) -> None:
        """Find a place for a request, or answer that there is none."""
        client = self._clients[number] = FarExchange(number, self)
        try:
            name, request, passage = messages.read_arrival(content)
            client.path = CHAT if passage.ask.is_chat else COMPLETIONS
            client.headers = context_headers(passage.trace_context)
            key = self.keys.get(passage.key_name or "")
            refusal = SHUTTING_DOWN if self.is_draining else self._admit(client, key, name, request, passage)
        except Exception:
            self._answer(client, Refusal("internal", "internal error"))
            raise
        if refusal is not None:
            self._answer(client, refusal)

    def _admit(
        self, client: FarExchange, key: KeyConfig | None, name: str, request: Request, passage: Passage
    ) -> Refusal | None:
        model = self._models[name]

        def make(r: int) -> FarRelay:
            relay = FarRelay(r, client, request, passage, model, self, self._clock)
            self._relays[client.number] = relay
            return relay

        def enter() -> Refusal | None:
            if not model.has_open_instance:  # the carrier has not heard yet
                return NO_INSTANCE
            relay = model.take_in(make)
            return None if relay is not None else Refusal("saturated", "every place is taken; ask again later")

        return self._places.take(client, key, enter)

    def _answer(self, client: FarExchange, refusal: Refusal) -> None:
        self._doorkeeper.turned_away(client, refusal.kind)
        answer = refusal.answer()
        client.respond(answer.status, answer.headers, answer.body)

    def _place(self, number: int, content: bytes) -> None:
        """Find a place and an instance for what nobody decides about, or answer that there is none."""
        client = self._clients[number] = FarExchange(number, self)
        name, key_name, client.path = messages.read_place(content)
        model = self._models[name]

        def send(instance: Instance, leave: Leave) -> None:
            self._passing[number] = leave
            self.introduce(model, instance.index, instance.origin)
            self.tell(Told.PLACED, number, orjson.dumps(instance.index))

        key = self.keys.get(key_name or "")
        refusal = SHUTTING_DOWN if self.is_draining else model.pass_on(client, key, self._places, send)
        if refusal is not None:
            answer = refusal.answer()
            client.respond(answer.status, answer.headers, answer.body)

    def _see(self, content: bytes) -> None:
        """Tokens came on streams."""
        seen_s, pairs = messages.read_news(content)
        for number, tokens in pairs:
            relay = self._relays.get(number)
            if relay is None:
                continue
            relay.saw(tokens)
            passage = relay.passage
            if tokens:
                if not passage.tokens:
                    passage.first_token_s = seen_s
                passage.tokens += tokens
                passage.last_token_s = seen_s
                if not relay.is_being_taken:
                    relay.model.saw_tokens(relay.r, tokens, self._clock(), seen_s)

    def _let_go(self, relay: FarRelay) -> None:
        """A request was taken back; what its client was sent meanwhile goes with it."""
        relay.was_taken()
        if relay.unseen_tokens and not relay.is_being_taken:
            relay.unseen_tokens = 0
            relay.model.resumed(relay)

    def _keep(self, relay: FarRelay) -> bool:
        """Put a request back where it stays, if it was to be taken from there. False: that instance is gone."""
        stays = relay.stay()
        if stays is None:
            return True
        if relay.model.instances.get(stays) is None:
            self.fail(relay, removed(started=True))
            return False
        relay.model.stayed(relay, stays)
        if relay.unseen_tokens:
            relay.model.saw_tokens(relay.r, relay.unseen_tokens, self._clock())
        return True

    def _follow(self, relay: FarRelay, kind: int, content: bytes) -> None:
        number = relay.exchange.number
        if kind == Said.TAKEN:
            self._let_go(relay)
            return
        if kind == Said.STAYS:
            self._keep(relay)
            return
        if kind == Said.PREFILLED:
            if not relay.is_being_taken:
                relay.prefilled()
            return
        told = messages.read_lived(content, relay.passage)
        if kind == Said.FAILED:
            if not relay.is_being_taken:  # what is taken back has no instance that could fail it
                self.fail(relay, messages.read_failure(told))
            return
        self.forget(number)
        if kind == Said.ENDED:
            if self._keep(relay):
                relay.model.ended(relay, told)
        elif kind == Said.BROKEN:
            relay.stay()  # wherever that was: nothing can be done for it
            relay.model.failed(relay, 500)
        elif kind == Said.REJECTED:
            relay.model.rejected(relay, told)
        else:
            relay.exchange.leave()
