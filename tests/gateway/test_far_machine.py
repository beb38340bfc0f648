"""The same with carriers: messages between them and the decider's process come whenever they like, or not at all.

What `test_gateway_machine` checks of one process must hold here too, of the decider's side at every moment, of both
sides together whenever no message is under way. A carrier may die at any moment.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import orjson
import pytest
from fakes import FakeConnections, FakeOrigin
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from test_gateway_machine import FAST, NUM_PLACES, GatewayMachine, _steps

from polyslo.core.state import DECODING, PENDING, QUEUED, RELEGATED
from polyslo.gateway.processes.carried import Carried
from polyslo.gateway.processes.carried_instance import CarriedInstance
from polyslo.gateway.processes.carried_model import CarriedModel
from polyslo.gateway.processes.desk import Desk
from polyslo.gateway.processes.messages import Told


class Post:
    """A `Messenger` whose messages wait until they are delivered."""

    def __init__(self):
        self.is_blocked, self.on_free = False, None
        self.sent = deque()

    def tell(self, kind, number=0, content=b""):
        """Take a message."""
        self.sent.append((kind, number, content))

    def deliver(self, take, count):
        """Deliver the oldest ones."""
        for _ in range(min(count, len(self.sent))):
            take(*self.sent.popleft())


class FarMachine(GatewayMachine):
    """A served model whose requests are in a carrier."""

    @initialize(policy=st.sampled_from(["polyserve", "minimal"]), refuse=st.booleans())
    def start(self, policy="polyserve", refuse=False):
        """Nothing has happened."""
        super().start(policy, refuse)
        self.is_ending = False
        self._begin_carrier()

    def _begin_carrier(self):
        self.up, self.down = Post(), Post()
        self.carried = Carried(self.up, self.loop.time_s, self.loop)
        self.desk = Desk(self.down, {"m": self.model}, self.places, {}, self.loop.time_s)
        self.far = CarriedModel("m", self.carried)

    def _obey(self, kind, number, content):
        """Take a message in the carrier."""
        if kind != Told.MODELS:
            self.carried.take(kind, number, content)
            return
        known = {instance.url: instance.origin for instance in self.far.instances.values()}
        self.far.instances = {
            i: CarriedInstance(url, known.pop(url, None) or FakeOrigin(), (), is_open)
            for i, url, _, is_open in orjson.loads(content)["m"]["instances"]
        }
        for origin in known.values():
            FakeConnections().close(origin)

    def _calls(self):
        return [call for instance in self.far.instances.values() for call in instance.origin.calls]

    def _take_in(self, exchange, request, passage):
        self.far.admit(exchange, b"{}", request, [], passage)

    def _pass_on(self, exchange, send):
        return self.far.pass_on(exchange, None, None, send)

    @precondition(lambda self: self.far.instances)
    @rule(which=st.integers(0, 4))
    def crash(self, which):
        """An engine loses all its connections at once."""
        there = list(self.far.instances.values())
        for call in list(there[which % len(there)].origin.calls):
            if not call.is_over:
                call.fail("reset")

    @rule(num_up=st.integers(0, 8), num_down=st.integers(0, 8))
    def deliver(self, num_up, num_down):
        """Some messages reach the other side."""
        self.up.deliver(self.desk.take, num_up)
        self.down.deliver(self._obey, num_down)

    @rule()
    def settle(self):
        """All of them do, and what follows from them."""
        self.up.is_blocked = False
        self.up.on_free()
        self.desk.tell_models()
        self.loop.run_until(self.loop.now_s + 0.002)
        while self.up.sent or self.down.sent:
            self.deliver(99, 99)
            self.loop.run_until(self.loop.now_s + 0.002)
            self.desk.tell_models()

    @rule(is_blocked=st.booleans())
    def block_link(self, is_blocked):
        """The decider's process takes nothing for a while, or has caught up."""
        self.up.is_blocked = is_blocked
        if not is_blocked:
            self.up.on_free()

    @rule(chance=st.integers(0, 9))
    def die_carrier(self, chance):
        """The carrier dies, now and then: its connections are cut, its messages lost; another one begins."""
        if chance:
            return
        for call in self._calls():
            call.abort()
        for exchange in [*self._open(), *self._waiting_guests()]:
            exchange.ending = "aborted"
        self.passing.clear()
        self.desk.lose_all()
        assert not self.desk._clients
        assert not self.desk._relays
        self._begin_carrier()

    @rule(for_s=st.sampled_from([0.0, 0.001, 0.003, 0.02, 0.1, 0.5, 3.0]))
    def wait(self, for_s):
        """Time passes; when all is to end messages come too."""
        self.loop.run_until(self.loop.now_s + for_s)
        if self.is_ending:
            self.settle()

    def teardown(self):
        """G6, G7, G9, as for one process; and nobody remembers a request that is over."""
        if not hasattr(self, "model"):
            return
        self.is_ending = True
        self.settle()
        super().teardown()
        assert self.carried.num_under_way == self.desk.num_under_way == 0
        assert not self.desk._relays
        assert not self.desk._passing
        assert not self.carried._asked

    @invariant()
    def everybody_is_in_one_place(self):
        """G1, G2 of the decider's side; with no message under way, each waiting client is known to both sides."""
        model = self.model
        relays = [relay for relay in model.relays if relay is not None]
        ended, free = model.decider._num_ended, model.decider.free
        assert len(set(free)) == len(free), "G1: a record is free twice"
        assert all(model.relays[r] is None for r in free), "G1: a record in use is free"
        assert len(free) + len(relays) + ended == NUM_PLACES, "G1: a record is lost"
        assert len(relays) + len(self.desk._passing) == self.places.num_taken, "G1: a place is lost"
        assert len(relays) + len(self.ends.outcomes) == self.ends.num_arrived, "G2: a request is lost"
        assert all(model.relays[relay.r] is relay for relay in relays)
        assert set(model._expiries) == set(relays)
        assert set(self.desk._relays.values()) == set(relays)
        passing = [self.desk._clients[number] for number in self.desk._passing]
        assert {*(id(relay.exchange) for relay in relays), *map(id, passing), *map(id, self.places._line)} == {
            id(client) for client in self.desk._clients.values()
        }
        assert set(self._waiting_guests()) == {exchange for exchange, *_ in self.carried._asked.values()} | set(
            self.passing
        ), "G2"
        assert len(self._open()) == self.carried.num_under_way, "G2"
        if self._is_quiet():
            assert len(self.desk._passing) == len(self.passing), "G2"
            under_way = {*self.carried._relays, *self.carried._asked, *self.desk._passing}
            assert set(self.desk._clients) == under_way, "G2"

    @invariant()
    def engines_have_what_is_believed(self):
        """G3, whenever no message is under way."""
        if not self._is_quiet():
            return
        model, stage = self.model, self.model.fleet.requests["stage"]
        for instance in model.instances:
            i, running = instance.index, instance.running
            numbers = [call.sink.r for call in self.far.instances[i].origin.calls] if i in self.far.instances else []
            assert set(numbers) == {relay.exchange.number for relay in running}, "G3"
            assert len(set(numbers)) == len(numbers), "G3: sent twice"
            for relay in running:
                assert relay.at.instance == i
                assert model.relays[relay.r] is relay
                assert model.fleet.requests["instance"][relay.r] == i, "G3: believed elsewhere"
                assert stage[relay.r] in (QUEUED, DECODING), "G3"
        for relay in model.relays:
            if relay is not None and relay.at.instance is None:
                assert stage[relay.r] in (PENDING, RELEGATED), "G3: nowhere, and nobody waits to send it"

    def _is_quiet(self):
        return not (self.up.sent or self.down.sent or self.carried._news._tokens)


@pytest.mark.parametrize("seed", range(40))
def test_all_accounts_balance_whenever_messages_come(seed):
    """G1, G2, G4, G5 after each of 120 steps, G3 whenever no message is under way, G6, G7 and G9 at the end."""
    random = np.random.default_rng(seed)
    walk = FarMachine()
    walk.start(["polyserve", "minimal"][int(random.random() < 0.25)], refuse=bool(random.random() < 0.3))
    steps = [
        *_steps(walk, random),
        (lambda: walk.deliver(int(random.integers(6)), int(random.integers(6))), 1.0, None),
        (lambda: walk.deliver(int(random.integers(6)), int(random.integers(6))), 1.0, None),
        (walk.settle, 1.0, None),
        (walk.settle, 1.0, None),
        (lambda: walk.block_link(bool(random.random() < 0.5)), 0.2, None),
        (lambda: walk.die_carrier(0), 0.05, None),
    ]
    num_quiet = 0
    for _ in range(120):
        step, weight, needs = steps[random.integers(len(steps))]
        if random.random() > weight or (needs is not None and not needs()):
            continue
        step()
        walk.everybody_is_in_one_place()
        walk.engines_have_what_is_believed()
        walk.belief_is_the_sum_of_its_requests()
        walk.clients_see_one_stream()
        walk.closed_instances_are_counted()
        walk.instances_are_in_one_state()
        num_quiet += walk._is_quiet()
    assert num_quiet >= 5, "the walk hardly ever checked both sides"
    walk.teardown()


TestFar = pytest.mark.slow(FarMachine.TestCase)
TestFar.settings = FAST
