"""Clients come and leave, engines answer, fail and dawdle, in any order: after every step all accounts balance.

Hypothesis looks for an order that breaks an invariant of docs/invariants.md (G1 to G10, G12) and shrinks what it finds;
random walks go further than its short examples do.
"""

from __future__ import annotations

import re

import numpy as np
import orjson
import pytest
from fakes import FakeConnections, FakeExchange, FakeLoop, FakeOrigin, FakeWatch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from journal_in_memory import JournalInMemory

from polyslo.core.fluid import LengthMoments
from polyslo.core.state import (
    ABSENT,
    DECODING,
    DONE,
    DRAINING,
    FITS,
    NONE,
    PENDING,
    QUEUED,
    REFUSED,
    RELEGATED,
    TRANSFERRING,
    UNHEALTHY,
)
from polyslo.gateway.belief.slack import Slack
from polyslo.gateway.config.models import EndpointConfig
from polyslo.gateway.config.server import HealthConfig, ServerConfig
from polyslo.gateway.instances.health import Health
from polyslo.gateway.instances.instance import POSTED, Instance
from polyslo.gateway.instances.membership import Membership
from polyslo.gateway.relays.answers import Answers
from polyslo.gateway.relays.errands import Patience
from polyslo.gateway.relays.listeners import OUTCOMES, Listeners
from polyslo.gateway.relays.passage import Passage
from polyslo.gateway.relays.places import Places
from polyslo.gateway.relays.prefill_leg import PrefillLeg
from polyslo.gateway.requests.body import read_body
from polyslo.gateway.requests.openai_errors import Refusal
from polyslo.gateway.requests.request import Request
from polyslo.gateway.requests.resumable import is_resumable
from polyslo.gateway.served_model import ServedModel
from polyslo.profiles.library import load_profile
from polyslo.sim.fleet import FleetConfig, PolicySpec, build_fleet

PROFILE = load_profile("llama-3.1-8b-h200-tp1").profile
TPOTS_S = (0.02, 0.05, 0.1)
NUM_INSTANCES, NUM_SLOTS, NUM_PLACES, CAPACITY = 3, 5, 12, 20_000
LENGTHS = LengthMoments.of(np.array([1000]), np.array([200]))
RAW = {False: b'{"model":"m","prompt":"x"}', True: b'{"model":"m","prompt":"x","stream":true,"max_tokens":4000}'}
TOKEN, DONE_EVENT = b'data: {"choices":[{"text":"x"}]}\n\n', b"data: [DONE]\n\n"
PREFILLED = b'{"choices":[{"text":"x"}],"kv_transfer_params":{"remote_engine_id":"e","remote_port":1}}'
WORD = (
    b'data: {"id":"a","choices":[{"index":0,"text":" %d","finish_reason":null}],'
    b'"usage":{"prompt_tokens":8,"total_tokens":%d,"completion_tokens":%d}}\n\n'
)
_WORDS = re.compile(rb'"text":" (\d+)"')
ERROR_EVENT = b'data: {"error":{"message":"died","code":500}}\n\n'
USAGE = b'{"choices":[{"text":"x"}],"usage":{"prompt_tokens":7,"total_tokens":%d,"completion_tokens":%d}}'
STATUSES = (400, 404, 413, 429, 500, 501, 503)
FAILURES = ("connect", "timeout", "reset", "malformed")
PAUSES_S = (0.0, 0.001, 0.003, 0.02, 0.1, 0.5, 3.0)
COUNTERS = ("num_residents", "num_decodes", "num_own", "num_queued", "queued_tokens", "decode_kv_tokens", "kv_tokens",
            "committed_tokens")  # fmt: skip


class Ends:
    """The listener that counts how requests end."""

    def __init__(self):
        self.num_arrived = 0
        self.outcomes = {}

    def arrived(self, relay):
        """Count it."""
        self.num_arrived += 1

    def decided(self, model, relay, kind, i):
        """Nothing to count."""
        assert relay not in self.outcomes, "decided about after its end"

    def moved(self, model, i):
        """Nothing to count."""

    def health_changed(self, model, i):
        """Nothing to count."""

    def finished(self, relay, outcome):
        """Count it."""
        assert outcome in OUTCOMES
        assert relay not in self.outcomes, f"ended twice: {self.outcomes[relay]}, {outcome}"
        self.outcomes[relay] = outcome


class GatewayMachine(RuleBasedStateMachine):
    """A served model of three instances between fakes."""

    @initialize(
        policy=st.sampled_from(["polyserve", "minimal"]), refuse=st.booleans(), mode=st.sampled_from(["co", "pd"])
    )
    def start(self, policy="polyserve", refuse=False, mode="co"):
        """Nothing has happened."""
        spec = PolicySpec.parse(policy)
        config = FleetConfig(
            num_instances=NUM_INSTANCES,
            mode=mode,
            first_from_decode=mode == "pd",
            kv_capacity_tokens=CAPACITY,
            max_residents=16,
            refuse=refuse,
        )
        shares = np.full(len(TPOTS_S), 1 / len(TPOTS_S))
        fleet = build_fleet(config, spec, PROFILE, np.array(TPOTS_S), shares, LENGTHS, NUM_PLACES, NUM_SLOTS)
        fleet.num_actions[0] = 0
        self.loop, self.ends, self.exchanges = FakeLoop(), Ends(), []
        self.guests, self.passing = (
            [],
            {},
        )  # what nobody decides about; of it what has a place, and how it is given back
        instances = [Instance(i, f"i{i}", f"http://i{i}", FakeOrigin()) for i in range(NUM_INSTANCES)]
        self.places = Places(
            ServerConfig(max_concurrent_requests=NUM_PLACES, queue_size=3, queue_timeout_s=2.0), self.loop
        )
        self.model = ServedModel(
            "m", fleet, spec.kind.code, instances, Answers(), Listeners([self.ends, self.places]),
            patience=Patience(request_timeout_s=6.0), slack=Slack(0.01, learns=True), clock=self.loop.time_s,
            loop=self.loop,
        )  # fmt: skip
        self.journal = JournalInMemory(self.model.decider, policy)
        self.model.health = Health(self.model.instances, self.model.close_instance, HealthConfig(failure_threshold=3))
        self.watch, self.num_joined = FakeWatch(), 0
        self.membership = Membership(self.model, self.watch, FakeConnections(), self.loop)

    @rule(
        tier=st.integers(0, len(TPOTS_S) - 1),
        input_tokens=st.sampled_from([1, 50, 1000, 6000, 19_000]),
        ttft_s=st.sampled_from([0.001, 0.05, 0.3, 5.0]),
        is_streamed=st.booleans(),
        copies=st.integers(1, 4),
        is_best_effort=st.booleans(),
    )
    def arrive(self, tier, input_tokens, ttft_s, is_streamed, copies, is_best_effort=False):
        """Some equal requests come."""
        for _ in range(copies):
            exchange = FakeExchange()
            self.exchanges.append(exchange)
            request = Request(
                self.loop.now_s,
                ttft_s,
                TPOTS_S[tier],
                tier,
                input_tokens,
                CAPACITY - input_tokens,
                is_streamed,
                is_best_effort=is_best_effort,
            )
            ask = read_body(exchange.path, RAW[is_streamed])
            passage = Passage("id", ask, "tier", wants_receipt=True, is_resumable=is_resumable(ask))
            self._take_in(exchange, request, passage)

    def _take_in(self, exchange, request, passage):
        def enter():
            assert self.model.admit(exchange, b"{}", request, [], passage) is not None, "a place without a record"

        if self.places.take(exchange, None, enter) is not None:
            exchange.respond(429, [], b"")

    @rule(copies=st.integers(1, 3))
    def pass_on(self, copies):
        """Something comes that nobody decides about."""
        for _ in range(copies):
            exchange = FakeExchange()
            self.guests.append(exchange)
            refusal = self._pass_on(exchange, lambda _, leave, exchange=exchange: self._begin_passing(exchange, leave))
            if refusal is not None:
                exchange.respond(429, [], b"")

    def _pass_on(self, exchange, send):
        return self.model.pass_on(exchange, None, self.places, send)

    def _begin_passing(self, exchange, leave):
        assert not exchange.is_over, "it has a place that it can't use"
        self.passing[exchange] = leave
        exchange.on_gone = self.passing[exchange]

    @precondition(lambda self: self._waiting_guests())
    @rule(which=st.integers(0, 100), is_answered=st.booleans())
    def end_passing(self, which, is_answered):
        """What nobody decides about is answered, where it has a place, or its client leaves."""
        guests = self._waiting_guests()
        exchange = guests[which % len(guests)]
        leave = self.passing.pop(exchange, None)
        if is_answered and leave is not None:
            exchange.on_gone = None
            leave()
            exchange.respond(200, [], b"")
        else:
            exchange.leave()

    def _waiting_guests(self):
        return [exchange for exchange in self.guests if not exchange.is_over]

    @precondition(lambda self: self._calls())
    @rule(which=st.integers(0, 100), num_tokens=st.integers(1, 5), at_once=st.booleans())
    def tokens(self, which, num_tokens, at_once):
        """An engine sends tokens of a stream; or reads a request that is not streamed."""
        call = self._call(which)
        if not call.has_head:
            call.head()
        if not _streams(call):
            return
        for _ in range(1 if at_once else num_tokens):
            if call.is_over:
                return
            call.data(b"".join(_token(call) for _ in range(num_tokens if at_once else 1)))

    @precondition(lambda self: self._calls())
    @rule(num_tokens=st.integers(1, 3))
    def iteration(self, num_tokens):
        """Every engine sends every stream a token: a few times, a little apart."""
        for _ in range(num_tokens):
            for k in range(len(self._calls())):
                calls = self._calls()
                if k < len(calls):
                    self._show(calls[k])
            self.wait(0.02)

    def _show(self, call):
        if not call.has_head:
            call.head()
        if _streams(call) and not call.is_over:
            call.data(_token(call))

    @precondition(lambda self: self._calls())
    @rule(which=st.integers(0, 100), usage=st.booleans(), split=st.booleans())
    def finish(self, which, usage, split):
        """An engine ends an answer well, with or without telling how long it was."""
        call = self._call(which)
        if not call.has_head:
            call.head()
        if isinstance(call.sink, PrefillLeg):
            call.data(PREFILLED if usage or split else b'{"choices":[{"text":"x"}]}')
            call.end()
            return
        if not _streams(call):
            call.data(USAGE % (17, 10) if usage else b'{"choices":[{"text":"x"}]}')
            call.end()
            return
        says_usage = usage and not _is_watched(call)
        last = b"data: " + USAGE % (8, call.num_tokens + 1) + b"\n\n" if says_usage else _token(call)
        last += DONE_EVENT
        for piece in [last[:9], last[9:]] if split else [last]:
            if not call.is_over:
                call.data(piece)
        if not call.is_over:
            call.end()

    @precondition(lambda self: self._calls())
    @rule(which=st.integers(0, 100), whole=st.booleans())
    def die(self, which, whole):
        """An engine tells of its death: an error event and [DONE], or a stream that ends without a word."""
        call = self._call(which)
        if not call.has_head:
            call.head(200 if _streams(call) else 500)
        if whole:
            call.data(ERROR_EVENT + DONE_EVENT)
        if not call.is_over:
            call.end()

    @precondition(lambda self: self._calls())
    @rule(which=st.integers(0, 100), status=st.sampled_from(STATUSES))
    def refuse(self, which, status):
        """An engine answers with an error status."""
        call = self._call(which)
        if call.has_head:
            return
        call.head(status)
        call.data(b'{"error":{}}')
        call.end()

    @precondition(lambda self: self._calls())
    @rule(which=st.integers(0, 100), kind=st.sampled_from(FAILURES))
    def fail(self, which, kind):
        """A connection fails, before or after the first byte."""
        self._call(which).fail(kind)

    @precondition(lambda self: self._calls() and len(self.model.instances))
    @rule(which=st.integers(0, 4))
    def crash(self, which):
        """An engine loses all its connections at once."""
        for call in list(self._instance(which).origin.calls):
            if not call.is_over:
                call.fail("reset")

    @precondition(lambda self: self._open())
    @rule(which=st.integers(0, 100))
    def leave(self, which):
        """A client leaves, whatever its request is doing."""
        exchanges = self._open()
        exchanges[which % len(exchanges)].leave()

    @precondition(lambda self: self._open())
    @rule(which=st.integers(0, 100), is_blocked=st.booleans())
    def block(self, which, is_blocked):
        """A client takes less than it is sent, or has caught up."""
        exchanges = self._open()
        exchanges[which % len(exchanges)].block(is_blocked)

    @precondition(lambda self: len(self.model.instances))
    @rule(which=st.integers(0, 4), reason=st.sampled_from([FITS, FITS, DRAINING, UNHEALTHY]))
    def set_closed(self, which, reason):
        """An instance is closed or opened, unless it joins or leaves."""
        instance = self._instance(which)
        if not instance.is_leaving and not instance.is_joining:
            self.model.close_instance(instance.index, reason)

    @rule(i=st.integers(0, NUM_INSTANCES - 1), share=st.sampled_from([0.05, 0.5, 1.0]))
    def resize(self, i, share):
        """Others' requests leave so much of an instance for ours."""
        self.model.resize(i, int(share * CAPACITY), int(share * 16))

    @precondition(lambda self: len(self.model.instances))
    @rule(which=st.integers(0, 4))
    def look(self, which):
        """A look at an instance finds it well; nobody looks at those that leave."""
        instance = self._instance(which)
        if not instance.is_leaving:
            self.model.health.succeeded(instance.index)

    @rule()
    def join(self):
        """One more instance comes; where there is no room for it, it is told so."""
        self.num_joined += 1
        name = f"j{self.num_joined}"
        num_there = len(self.model.instances)
        joined = self.membership.join(EndpointConfig(f"http://{name}:1", name), POSTED)
        assert isinstance(joined, Refusal) == (num_there == NUM_SLOTS)

    @precondition(lambda self: len(self.model.instances))
    @rule(which=st.integers(0, 4), at_once=st.booleans())
    def remove(self, which, at_once):
        """An instance is to leave, when its requests are over or at once."""
        instance = self._instance(which)
        self.membership.leave(instance, at_once=at_once)
        is_there = self.model.instances.get(instance.index) is instance
        if at_once and not self.model.is_disaggregated:  # there it may be foreseen for what another one prefills
            assert not is_there
            assert not instance.running

    @precondition(lambda self: any(instance.is_leaving for instance in self.model.instances))
    @rule()
    def stay(self):
        """One that leaves is wanted after all."""
        instance = next(instance for instance in self.model.instances if instance.is_leaving)
        assert self.membership.join(EndpointConfig(instance.url, instance.name), POSTED) is instance

    @rule(for_s=st.sampled_from(PAUSES_S))
    def wait(self, for_s):
        """Time passes."""
        self.loop.run_until(self.loop.now_s + for_s)

    def _calls(self):
        return [call for instance in self.model.instances for call in instance.origin.calls]

    def _instance(self, which):
        there = list(self.model.instances)
        return there[which % len(there)]

    def _call(self, which):
        calls = self._calls()
        return calls[which % len(calls)]

    def _open(self):
        return [exchange for exchange in self.exchanges if not exchange.is_over]

    @invariant()
    def everybody_is_in_one_place(self):
        """G1, G2: free and used records are all records; what is under way has a client that waits for it."""
        model = self.model
        relays = [relay for relay in model.relays if relay is not None]
        ended = model.decider._num_ended
        free = model.decider.free
        assert len(set(free)) == len(free), "G1: a record is free twice"
        assert all(model.relays[r] is None for r in free), "G1: a record in use is free"
        assert len(free) + len(relays) + ended == NUM_PLACES, "G1: a record is lost"
        assert len(relays) + len(self.passing) == self.places.num_taken, "G1: a place is lost"
        assert len(relays) + len(self.ends.outcomes) == self.ends.num_arrived, "G2: a request is lost"
        have_a_place = {relay.exchange for relay in relays} | set(self.passing)
        assert have_a_place | set(self.places._line) == {*self._open(), *self._waiting_guests()}, "G2"
        assert all(model.relays[relay.r] is relay for relay in relays)
        assert set(model._expiries) == set(relays)

    @invariant()
    def engines_have_what_is_believed(self):
        """G3: each call belongs to one request under way, which knows where it is; nobody else is at an engine."""
        model, stage = self.model, self.model.fleet.requests["stage"]
        for instance in model.instances:
            i, relays = instance.index, [_relay(call) for call in instance.origin.calls]
            resting = {relay for relay in instance.running if relay.at.is_prefilled and relay._call is None}
            assert set(relays) == instance.running - resting, "G3"
            assert len(set(relays)) == len(relays), "G3: sent twice"
            assert all(stage[relay.r] == QUEUED for relay in resting), "G3: prefilled, and not sent on"
            for relay in relays:
                is_sent_on = stage[relay.r] == TRANSFERRING
                place = "decode_instance" if is_sent_on else "instance"
                assert relay.at.instance == i
                assert model.relays[relay.r] is relay
                assert model.fleet.requests[place][relay.r] == i, "G3: believed elsewhere"
                assert stage[relay.r] in (QUEUED, TRANSFERRING, DECODING), "G3"
                assert not is_sent_on or relay.at.is_prefilled, "G3: sent on before its prefill had ended"
        for relay in model.relays:
            if relay is not None and relay.at.instance is None:
                assert stage[relay.r] in (PENDING, RELEGATED), "G3: nowhere, and nobody waits to send it"
        under_way = model.decider.streams.transfers[: model.decider.streams.num_transfers[0]]
        assert sorted(under_way) == np.flatnonzero(stage == TRANSFERRING).tolist(), "G3: KV on its way"

    @invariant()
    def belief_is_the_sum_of_its_requests(self):
        """G4: what is believed of an instance is the sum of what is believed of its requests; none is negative."""
        fleet, decider = self.model.fleet, self.model.decider
        free = set(decider.free)
        used = [r for r in range(NUM_PLACES) if r not in free]
        records = fleet.requests
        for i in range(NUM_SLOTS):
            instance = fleet.instances[i]
            here = [r for r in used if records["instance"][r] == i and records["stage"][r] in (QUEUED, DECODING)]
            moving = [r for r in used if records["instance"][r] == i and records["stage"][r] == TRANSFERRING]
            coming = [
                r for r in used if records["decode_instance"][r] == i and records["stage"][r] in (QUEUED, TRANSFERRING)
            ]
            queue = [r for r in here if records["stage"][r] == QUEUED]
            decodes = [r for r in here if records["stage"][r] == DECODING]
            assert (len(queue), len(decodes)) == (instance["num_queued"], instance["num_decodes"]), "G4"
            assert instance["queued_tokens"] == records["remaining_tokens"][queue].sum(), "G4"
            passed = (instance["iteration"] - records["start_iteration"][decodes]).sum()
            decode_kv = records["prefill_tokens"][decodes].sum() + passed
            assert instance["decode_kv_tokens"] == decode_kv, "G4: decode_kv_tokens"
            queued_kv = (records["prefill_tokens"][queue] - records["remaining_tokens"][queue]).sum()
            moving_kv = records["prefill_tokens"][moving].sum()
            assert instance["kv_tokens"] == decode_kv + queued_kv + moving_kv, "G4: kv_tokens"
            prompts = [r for r in queue if records["hands_over"][r]] + moving  # their outputs are another instance's
            whole = [r for r in here if r not in prompts] + coming
            is_host = instance["group"] < len(fleet.tpots_s)
            promised = [r for r in whole if not (is_host and records["best_effort"][r])]
            load = (records["input_tokens"][promised] + records["expected_tokens"][promised]).sum()
            load += records["input_tokens"][prompts].sum()
            assert instance["committed_tokens"] == load, "G4: committed_tokens"
            assert all(instance[name] >= 0 for name in COUNTERS), "G4: below zero"
            if fleet.settings["elastic"][0]:
                residents = fleet.resident[i, : instance["num_residents"]].tolist()
                assert sorted(residents) == sorted(whole), "G4: residents"
        self._check_queues(records, free)

    def _check_queues(self, records, free):
        fleet = self.model.fleet
        for queue in range(len(TPOTS_S) + 1):
            waiting = fleet.pending[queue, : fleet.pending_size[queue]].tolist()
            assert not set(waiting) & free, "G4: a free record is waited for"
            assert len(set(waiting)) == len(waiting)
            wanted = RELEGATED if queue == len(TPOTS_S) else PENDING
            assert all(records["stage"][r] == wanted for r in waiting), "G4"
        assert all(records["stage"][r] in (0, DONE, REFUSED) for r in free), "G4: a free record goes on"

    @invariant()
    def clients_see_one_stream(self):
        """G12: a best-effort answer has every word once and in order, at however many instances it has been."""
        for exchange in self.exchanges:
            words = [int(word) for word in _WORDS.findall(exchange.sent)]
            assert words == list(range(len(words))), "G12"

    @invariant()
    def closed_instances_are_counted(self):
        """G5: the pool knows how many of its instances nobody may claim; belief and shell agree on who is closed."""
        fleet = self.model.fleet
        idle = fleet.instances["group"] == len(TPOTS_S) + 1
        closed = fleet.instances["closed"]
        assert fleet.settings["num_closed_idle"][0] == (idle & (closed != FITS)).sum(), "G5"
        for i in range(NUM_SLOTS):
            instance = self.model.instances.get(i)
            assert closed[i] == (ABSENT if instance is None else instance.closed), "G5"

    @invariant()
    def instances_are_in_one_state(self):
        """G10: who joins or leaves is sent nothing new; slots without an instance hold nothing."""
        fleet = self.model.fleet
        for i in range(NUM_SLOTS):
            instance = self.model.instances.get(i)
            if instance is None:
                assert not any(fleet.instances[name][i] for name in COUNTERS), "G10: a vacant slot holds something"
                continue
            assert instance.index == i
            assert not (instance.is_joining and instance.is_leaving), "G10"
            assert instance.closed != FITS or not (instance.is_joining or instance.is_leaving), "G10"
            assert (i in self.watch.watched) <= (not instance.is_leaving), "G10: it is looked at while it leaves"
        assert len(self.model.instances) <= NUM_SLOTS

    def teardown(self):
        """G6, G7: let everything end; every exchange has one ending, and all counts are exactly zero. G9: again."""
        if not hasattr(self, "model"):
            return
        for instance in self.model.instances:
            if instance.is_leaving:
                continue
            instance.is_joining = False
            self.model.close_instance(instance.index, FITS)
        for i in range(NUM_SLOTS):
            self.model.resize(i, CAPACITY, 16)
        if not self.model.has_open_instance:
            self.join()
            self.model.health.succeeded(next(one.index for one in self.model.instances if one.is_joining))
        for _ in range(400):
            for call in self._calls():
                if not call.is_over:
                    self._show(call)
                if not call.is_over:
                    whole = PREFILLED if isinstance(call.sink, PrefillLeg) else USAGE % (8, 1)
                    call.data(DONE_EVENT if _streams(call) else whole)
                if not call.is_over:
                    call.end()
            for exchange in self._waiting_guests():
                self.end_passing(self._waiting_guests().index(exchange), is_answered=True)
            self.wait(0.1)
            if not self._open() and not self._waiting_guests():
                break
        self.wait(0.1)
        assert not self._open(), "G6: a client was never answered"
        assert not self._waiting_guests(), "G6: a client was never answered"
        fleet = self.model.fleet
        assert self.model.decider.num_free == NUM_PLACES, "G7"
        assert self.model.num_in_flight == self.places.num_taken == self.places.num_waiting == 0, "G7"
        assert not fleet.pending_size.any(), "G7"
        for name in COUNTERS:
            assert not fleet.instances[name].any(), f"G7: {name} = {fleet.instances[name]}"
        assert (fleet.instances["queue_head"] == NONE).all(), "G7"
        assert not any(instance.origin.calls for instance in self.model.instances), "G7"
        assert not any(instance.is_leaving for instance in self.model.instances), "G7: it stays for nothing"
        assert not self.model._expiries, "G7"
        if fleet.settings["elastic"][0]:
            assert fleet.group_size.tolist() == [0] * (len(TPOTS_S) + 1) + [NUM_SLOTS], "G7"
        self.membership.stop()
        self.model.stop()
        self.journal.check()


def _is_watched(call):
    """Tell whether a call's stream can be gone on with, so that its engine states counts."""
    return b"continuous_usage_stats" in call.body


def _token(call):
    """Return a stream's next token; of one that can be gone on with, a word that follows from those before."""
    call.num_tokens += 1
    if not _is_watched(call):
        return TOKEN
    word = len(orjson.loads(call.body)["prompt"].split()) - 2 + call.num_tokens
    return WORD % (word, 8 + word + call.num_tokens, call.num_tokens)


def _relay(call):
    """Return the request that a call is of."""
    return call.sink.relay if isinstance(call.sink, PrefillLeg) else call.sink


def _streams(call):
    """Tell whether a call's answer is a stream."""
    return not isinstance(call.sink, PrefillLeg) and call.sink.request.is_streamed


@pytest.mark.parametrize("mode", ["co", "pd"])
@pytest.mark.parametrize("seed", range(40))
def test_all_accounts_balance_on_long_random_walks(seed, mode):
    """G1 to G5 and G10 after each of 80 steps, G6, G7 and G9 at the end."""
    random = np.random.default_rng(seed)
    walk = GatewayMachine()
    policy, refuse = ["polyserve", "minimal"][int(random.random() < 0.25)], bool(random.random() < 0.3)
    walk.start(policy, refuse=refuse, mode=mode)
    steps = _steps(walk, random)
    for _ in range(80):
        step, weight = None, 0.0
        while step is None or random.random() > weight:
            step, weight, needs = steps[random.integers(len(steps))]
            if needs is not None and not needs():
                step = None
                weight = 0.0
        step()
        walk.everybody_is_in_one_place()
        walk.engines_have_what_is_believed()
        walk.belief_is_the_sum_of_its_requests()
        walk.clients_see_one_stream()
        walk.closed_instances_are_counted()
        walk.instances_are_in_one_state()
    walk.teardown()


def _steps(walk, random):
    """Return what may happen: (step, how likely, what it needs)."""

    def any_of(*choices):
        return choices[random.integers(len(choices))]

    def number(high):
        return int(random.integers(high))

    def truth():
        return bool(random.random() < 0.5)

    def arrive():
        prompt, ttft_s = any_of(1, 50, 1000, 6000, 19_000), any_of(0.001, 0.05, 0.3, 5.0)
        walk.arrive(number(3), prompt, ttft_s, truth(), 1 + number(4), number(4) == 0)

    def there():
        return len(walk.model.instances)

    def leaving():
        return any(instance.is_leaving for instance in walk.model.instances)

    calls, clients, guests = walk._calls, walk._open, walk._waiting_guests
    return [
        (arrive, 1.0, None),
        (lambda: walk.tokens(number(100), 1 + number(5), truth()), 1.0, calls),
        (lambda: walk.iteration(1 + number(3)), 1.0, calls),
        (lambda: walk.finish(number(100), truth(), truth()), 1.0, calls),
        (lambda: walk.die(number(100), truth()), 0.3, calls),
        (lambda: walk.refuse(number(100), any_of(*STATUSES)), 0.3, calls),
        (lambda: walk.fail(number(100), any_of(*FAILURES)), 0.3, calls),
        (lambda: walk.crash(number(5)), 0.1, lambda: calls() and there()),
        (lambda: walk.leave(number(100)), 0.3, clients),
        (lambda: walk.block(number(100), truth()), 0.2, clients),
        (lambda: walk.pass_on(1 + number(3)), 0.3, None),
        (lambda: walk.end_passing(number(100), truth()), 1.0, guests),
        (lambda: walk.set_closed(number(5), any_of(FITS, FITS, DRAINING, UNHEALTHY)), 0.3, there),
        (lambda: walk.resize(number(3), any_of(0.05, 0.5, 1.0)), 0.2, None),
        (lambda: walk.look(number(5)), 0.5, there),
        (walk.join, 0.15, None),
        (lambda: walk.remove(number(5), truth()), 0.15, there),
        (walk.stay, 0.1, leaving),
        (lambda: walk.wait(any_of(*PAUSES_S)), 1.0, None),
    ]


def test_who_leaves_stays_until_belief_knows_that_its_last_request_has_ended():
    """G10: a prompt that nobody had believed to have begun has its whole answer, which counts with the next digest."""
    walk = GatewayMachine()
    walk.start(policy="minimal")
    walk.remove(which=0, at_once=False)
    walk.arrive(copies=2, input_tokens=1, is_streamed=False, tier=1, ttft_s=0.001)
    for which in (0, 1):  # both are at the second one then
        walk.crash(which=which)
    walk.leave(which=0)
    walk.finish(which=0, split=False, usage=False)
    walk.remove(which=0, at_once=False)
    walk.instances_are_in_one_state()
    assert len(walk.model.instances) == 2
    walk.wait(1.0)
    assert len(walk.model.instances) == 1
    walk.instances_are_in_one_state()
    walk.teardown()


FAST = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
TestGateway = pytest.mark.slow(GatewayMachine.TestCase)
TestGateway.settings = FAST
