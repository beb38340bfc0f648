"""The decider's process towards one carrier: what it tells of its requests becomes calls of the served models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic

import orjson

from polyslo.gateway import carrier_messages as messages
from polyslo.gateway.carrier_messages import Said, Told
from polyslo.gateway.config_slo import KeyConfig
from polyslo.gateway.far_relay import FarExchange, FarRelay
from polyslo.gateway.front import SHUTTING_DOWN
from polyslo.gateway.front_model import Admission
from polyslo.gateway.link import Messenger
from polyslo.gateway.openai_errors import Refusal
from polyslo.gateway.relay import Passage
from polyslo.gateway.request import Request
from polyslo.gateway.served_model import ServedModel
from polyslo.wire.client import Failure


class Desk:
    """One carrier's requests; the `Carrier` of their relays."""

    def __init__(
        self,
        messenger: Messenger,
        models: Mapping[str, ServedModel],
        places: Admission,
        keys: Mapping[str, KeyConfig],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._messenger = messenger
        self._models = models
        self._places = places
        self.keys = keys  # by name; may be replaced
        self._clock = clock
        self._clients: dict[int, FarExchange] = {}
        self._relays: dict[int, tuple[FarRelay, ServedModel]] = {}  # of clients that have a place
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

    def take(self, kind: int, number: int, content: bytes) -> None:
        """Take in what the carrier tells; of requests that are over it can't know yet."""
        if kind == Said.NEWS:
            self._see(content)
        elif kind == Said.ARRIVAL:
            self._receive(number, content)
        elif kind == Said.PLACE:
            self._place(number, self._models[orjson.loads(content)])
        elif number in self._relays:
            self._follow(*self._relays[number], kind, content)
        elif kind == Said.LEFT and number in self._clients:
            client = self._clients[number]
            self.forget(number)
            client.leave()

    def lose_all(self) -> int:
        """The carrier is gone, and with it all its requests; return how many."""
        lost = self.num_under_way
        for number, client in list(self._clients.items()):
            relay, model = self._relays.get(number, (None, None))
            self.forget(number)
            if relay is not None and model is not None:
                model.lost(relay)
            else:
                client.leave()
        return lost

    def _receive(self, number: int, content: bytes) -> None:
        """Find a place for a request, or answer that there is none."""
        client = self._clients[number] = FarExchange(number, self)
        try:
            name, request, passage = messages.read_arrival(content)
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
            relay = FarRelay(r, client, request, passage, self, model.left, self._clock)
            self._relays[client.number] = relay, model
            return relay

        def enter() -> Refusal | None:
            relay = model.take_in(make)
            return None if relay is not None else Refusal("saturated", "every place is taken; ask again later")

        return self._places.take(client, key, enter)

    def _answer(self, client: FarExchange, refusal: Refusal) -> None:
        answer = refusal.answer()
        client.respond(answer.status, answer.headers, answer.body)

    def _place(self, number: int, model: ServedModel) -> None:
        model.least_loaded(lambda instance: self.tell(
            Told.PLACED, number, orjson.dumps(None if instance is None else instance.index)
        ))  # fmt: skip

    def _see(self, content: bytes) -> None:
        """Tokens came on streams."""
        seen_s, pairs = messages.read_news(content)
        for number, tokens in pairs:
            found = self._relays.get(number)
            if found is None:
                continue
            relay, model = found
            if not relay.has_started:
                self._start(relay, model)
            passage = relay.passage
            if tokens:
                if not passage.tokens:
                    passage.first_token_s = seen_s
                passage.tokens += tokens
                passage.last_token_s = seen_s
                model.saw_tokens(relay.r, tokens, seen_s)

    def _start(self, relay: FarRelay, model: ServedModel) -> None:
        """A client is sent something, or has been answered: where its request is now it stays."""
        stays = relay.start()
        if stays is not None:
            model.stayed(relay, stays)

    def _follow(self, relay: FarRelay, model: ServedModel, kind: int, content: bytes) -> None:
        number = relay.exchange.number
        if kind == Said.TAKEN:
            relay.was_taken()
            return
        told = messages.read_lived(content, relay.passage)
        if kind == Said.FAILED:
            self._fail(relay, model, messages.read_failure(told))
            return
        self.forget(number)
        if kind == Said.ENDED:
            self._start(relay, model)
            model.ended(relay, told)
        elif kind == Said.REJECTED:
            model.rejected(relay, told)
        else:
            relay.exchange.leave()

    def _fail(self, relay: FarRelay, model: ServedModel, failure: Failure | int) -> None:
        """An instance failed a request; where that was taken back meanwhile, it is no news."""
        if relay.is_being_taken or model.failed(relay, failure):
            return
        if relay.has_started and isinstance(failure, int):  # its response has ended with the failure
            self.forget(relay.exchange.number)
        elif relay.has_started:
            relay.break_off()
        elif isinstance(failure, int):
            relay.let_through()
