"""A model that is served: its instances, the decider over them, and the requests under way.

The event loop's one thread does everything, so between reading state and having decided nothing else happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic

from polyslo.core.profile import fastest_prefill_s
from polyslo.core.state import ABSENT, DISPATCH, DRAINING, FITS, REFUSE, RELEGATE, RETIER, TRANSFER, WITHDRAW, Fleet
from polyslo.gateway.belief.reconciliation import Reconciliation
from polyslo.gateway.belief.slack import Slack
from polyslo.gateway.belief.tokens import Estimate, TokenEstimate
from polyslo.gateway.config.slo import KeyConfig
from polyslo.gateway.decider import Decider
from polyslo.gateway.front_model import Admission, Leave
from polyslo.gateway.heartbeat import GATHER_S, Heartbeat
from polyslo.gateway.instances.instance import Instance
from polyslo.gateway.instances.roster import Roster
from polyslo.gateway.instances.stand_in import has_stand_in
from polyslo.gateway.journal.shadow import Shadow
from polyslo.gateway.relays.bypass import Bypass
from polyslo.gateway.relays.errands import Errands, Patience
from polyslo.gateway.relays.listeners import Listener
from polyslo.gateway.relays.near_relay import NearRelay
from polyslo.gateway.relays.passage import Header, Passage
from polyslo.gateway.relays.places import Client
from polyslo.gateway.relays.relay import Relay, gives_way
from polyslo.gateway.requests.least_ttft import LeastTtft
from polyslo.gateway.requests.openai_errors import NO_INSTANCE, Refusal
from polyslo.gateway.requests.request import Request
from polyslo.gateway.surroundings import Handle, HealthWatch, Loop, Refusals
from polyslo.wire.client import Failure
from polyslo.wire.server import Exchange

DELAY_S = 0.001  # from the end of a step in an engine to its news here, about, and from here to there


class ServedModel:
    """The `Watcher` of a model's relayed requests."""

    def __init__(
        self,
        name: str,
        fleet: Fleet,
        policy: int,
        instances: Sequence[Instance],
        refusals: Refusals,
        listener: Listener,
        *,
        patience: Patience | None = None,
        tells_slos: bool = False,
        slack: Slack | None = None,
        gather_s: float = GATHER_S,
        clock: Callable[[], float] = monotonic,
        loop: Loop | None = None,
    ) -> None:
        self.name = name
        self.policy = policy
        self.tier_labels = tuple(f"{1e3 * tpot_s:g}ms" for tpot_s in fleet.tpots_s.tolist())
        self.fleet = fleet
        self.instances = Roster(instances, len(fleet.instances))
        self.relays: list[Relay | None] = [None] * len(fleet.requests)
        self.kv_capacity_tokens = int(fleet.instances["kv_capacity_tokens"].min())
        # Of prompts' tokens: completions, chat.
        self.estimates: tuple[Estimate, Estimate] = (TokenEstimate(), TokenEstimate())
        fastest_s = partial(fastest_prefill_s, fleet.profile.handle)
        self.least_ttft = LeastTtft.of(fastest_s, int(fleet.profile.kv_capacity_tokens))
        self.is_disaggregated = bool(fleet.settings["disaggregated"][0])
        self.decider = Decider(fleet, policy, self._carry_out, delay_s=DELAY_S)
        self.health: HealthWatch | None = None
        self.shadow: Shadow | None = None
        self.bypass: Bypass | None = None
        self.reconciliation: Reconciliation | None = None
        self._refusals = refusals
        self._listener = listener
        self._patience = patience or Patience()
        self._errands = Errands(fleet, policy, self.instances, self._patience, clock, tells_slos=tells_slos)
        self.slack = slack or Slack(0.0)
        self._clock = clock
        self._loop: Loop = loop or asyncio.get_running_loop()
        self._expiries: dict[Relay, Handle] = {}
        self._heartbeat = Heartbeat(self.decider, lambda: self.num_in_flight > 0, clock, self._loop, gather_s)
        self.decider.on_news = self._heartbeat.digest_soon
        self.saw_tokens = self.decider.saw_tokens  # see `Watcher`
        for i in self.instances.vacant:
            self.decider.close(i, ABSENT, clock())

    @property
    def num_in_flight(self) -> int:
        """Requests that are not over."""
        return len(self.relays) - self.decider.num_free

    @property
    def destinations(self) -> Roster:
        """See `FrontModel`."""
        return self.instances

    @property
    def tpots_s(self) -> tuple[float, ...]:
        """The tiers' TPOTs, ascending."""
        return tuple(self.fleet.tpots_s.tolist())

    @property
    def has_open_instance(self) -> bool:
        """Whether any instance takes requests."""
        return any(instance.closed == FITS for instance in self.instances)

    def admit(
        self,
        exchange: Exchange,
        body: bytes,
        request: Request,
        headers: Sequence[Header],
        passage: Passage,
    ) -> Relay | None:
        """Take a request in and decide about it at once; None when there is no room for one more."""
        return self.take_in(lambda r: NearRelay(r, exchange, body, request, self, self._clock, headers, passage))

    def take_in(self, make: Callable[[int], Relay]) -> Relay | None:
        """Take in the request that `make` makes of a free record, and decide about it at once; see `admit`."""
        if not self.decider.num_free:
            self.take_news()  # which frees the records of streams that have just ended
        r = self.decider.enter()
        if r is None:
            return None
        relay = self.relays[r] = make(r)
        left_s = relay.request.arrival_s + self._patience.request_timeout_s - self._clock()
        self._expiries[relay] = self._loop.call_later(max(0.0, left_s), self._expire, relay)
        self._listener.arrived(relay)
        self._decide(relay)
        return relay

    def pass_on(
        self, exchange: Client, key: KeyConfig | None, places: Admission, send: Callable[[Instance, Leave], None]
    ) -> Refusal | None:
        """See `FrontModel`."""

        def enter() -> Refusal | None:
            instance = self._least_loaded()
            if instance is None:
                return NO_INSTANCE
            send(instance, partial(places.leave, None if key is None else key.name))
            return None

        return places.take(exchange, key, enter)

    def close_instance(self, i: int, reason: int) -> None:
        """Send an instance nothing new, for a reason of `core.state`; FITS opens it again."""
        instance = self.instances[i]
        instance.closed = reason
        self.decider.close(i, reason, self._clock())
        self._listener.health_changed(self, i)
        instance.was_open |= reason == FITS

    def resize(self, i: int, kv_capacity_tokens: int, max_residents: int) -> None:
        """Reckon with another room for our requests on an instance."""
        self.decider.resize(i, kv_capacity_tokens, max_residents, self._clock())

    def stop(self) -> None:
        """Stop the clock and take in the last news; requests under way go on."""
        self._heartbeat.stop()

    def take_news(self) -> None:
        """Digest what was seen, now."""
        self._heartbeat.digest_now()

    def started(self, relay: Relay) -> None:
        """See `Watcher`."""

    def prefilled(self, relay: Relay) -> None:
        """See `Watcher`."""
        self._note_success(relay)
        self.saw_tokens(relay.r, 1, self._clock())

    def ended(self, relay: Relay, output_tokens: int) -> None:
        """See `Watcher`."""
        self._forget(relay)
        self._note_success(relay)
        if relay.passage.prompt_tokens is not None:
            self.estimates[relay.passage.ask.is_chat].learn(relay.passage.ask, relay.passage.prompt_tokens)
        self._learn_slack(relay)
        self.decider.saw_end(relay.r, output_tokens, self._clock())
        self._finish(relay, "served" if relay.request.is_best_effort else _judged(relay.passage))

    def failed(self, relay: Relay, failure: Failure | int) -> bool:
        """See `Watcher`: before the client was sent anything of it, another instance is tried."""
        self._forget(relay)
        is_removed = isinstance(failure, Failure) and failure.kind == "removed"
        blamed = None if is_removed else relay.at.instance
        self._note_failure(blamed, failure)
        self.decider.lose(relay.r, self._clock())
        relay.passage.num_failures += 1
        may_try = relay.passage.num_failures <= self._patience.max_retries and self.has_open_instance
        may_try &= not (relay.has_started and self.is_disaggregated)  # a rest is never prefilled apart
        if may_try and not relay.is_committed:
            self._try_again(relay, blamed)
            return True
        if isinstance(failure, Failure) and not relay.has_started:
            relay.answer(*self._refusals.unavailable(relay, failure))
        self._finish(relay, "failed")
        return False

    def rejected(self, relay: Relay, status: int) -> None:
        """See `Watcher`."""
        self._give_up(relay, "rejected")

    def left(self, relay: Relay) -> None:
        """See `Watcher`."""
        self._give_up(relay, "cancelled")

    def lost(self, relay: Relay) -> None:
        """A request is over, and nobody can be told: who carried it is gone."""
        self._give_up(relay, "failed")

    def stayed(self, relay: Relay, i: int) -> None:
        """A request was taken back too late: its client had been sent some of it, so it goes on at `i`."""
        if relay.at.instance is not None:
            self.instances[relay.at.instance].running.discard(relay)
        relay.at.instance = i
        self.instances[i].running.add(relay)
        self.decider.keep(relay.r, i, self._clock())

    def resumed(self, relay: Relay) -> None:
        """Another instance goes on with a request: what its client was sent is a part of the prompt there."""
        self.decider.resume(relay.r, relay.request.input_tokens + relay.passage.tokens, self._clock())

    def _least_loaded(self) -> Instance | None:
        """Return the open instance that has the least to do; None where none is open."""
        loads = self.fleet.instances["committed_tokens"]
        open_ones = [instance for instance in self.instances if instance.closed == FITS]
        return min(open_ones, key=lambda instance: int(loads[instance.index]), default=None)

    def _learn_slack(self, relay: Relay) -> None:
        """Hold the first token of a stream that was sent once against when it was due for decisions."""
        passage = relay.passage
        if relay.request.is_streamed and passage.num_tries == 1 and not gives_way(relay):
            record = self.fleet.requests[relay.r]
            self.slack.observe(float(record["predicted_first_s"]), float(record["first_due_s"]), passage.first_token_s)

    def _note_success(self, relay: Relay) -> None:
        if self.health is not None and relay.at.instance is not None:
            self.health.succeeded(relay.at.instance)

    def _note_failure(self, blamed: int | None, failure: Failure | int) -> None:
        if self.health is None or blamed is None or (isinstance(failure, int) and failure < 500):
            return
        has_no_connection = isinstance(failure, Failure) and failure.kind in ("connect", "name")
        self.health.failed(blamed, at_once=has_no_connection)

    def _try_again(self, relay: Relay, failed: int | None) -> None:
        """Decide about a request that an instance failed; that one is not asked while another is open."""
        again = self.decider.enter()
        assert again is not None  # one was freed just now
        relay.r = again
        relay.at.start_over()
        self.relays[again] = relay
        is_open = failed is not None and self.instances[failed].closed == FITS
        if failed is None or not is_open or not has_stand_in(self.fleet, self.instances, failed):
            self._decide(relay)
            return
        self.decider.close(failed, DRAINING, self._clock())
        self._decide(relay)
        self.decider.open(failed, self._clock())

    def _expire(self, relay: Relay) -> None:
        """Give up a request that takes longer than any may."""
        self._forget(relay)
        self.decider.lose(relay.r, self._clock())
        if relay.has_started:
            relay.break_off()
        else:
            relay.answer(*self._refusals.expired(relay))
        self._finish(relay, "failed")

    def _decide(self, relay: Relay) -> None:
        r, request, now_s = relay.r, relay.request, self._clock()
        hurried = replace(request, ttft_s=self.slack.hurried_s(request.ttft_s))
        choice = None if self.shadow is None else self.shadow.choose(r, hurried, now_s)
        self.decider.arrive(r, hurried, now_s)
        if self.shadow is not None:
            self.shadow.compare(r, choice)
        if relay.has_started:
            self.resumed(relay)

    def _carry_out(self, kind: int, r: int, i: int) -> None:
        if kind == RETIER:
            self._listener.moved(self, i)
            return
        relay = self.relays[r] if r >= 0 else None
        if relay is None:
            return
        if kind == DISPATCH and relay.at.instance is not None:  # withdrawn and sent on at once, but it stays
            return
        if kind == DISPATCH:
            self._errands.note_placement(relay, i)
        elif kind == TRANSFER:
            if self.instances.get(i) is None:  # nobody is left who could decode it
                relay.lose_instance()
                return
            self._errands.note_transfer(relay, i)
        self._listener.decided(self, relay, kind, i)
        if kind == DISPATCH:
            self._errands.send(relay, i)
        elif kind == TRANSFER:
            self._errands.send_on(relay, i)
        elif kind == WITHDRAW:
            self._withdraw(relay)
        elif kind == REFUSE:
            self._refuse(relay)
        elif kind == RELEGATE:
            relay.passage.is_relegated = True

    def _withdraw(self, relay: Relay) -> None:
        """Take a request back from its instance, to be sent again later; where its client would notice, it stays."""
        instance = relay.at.instance
        assert instance is not None  # what was never sent is never withdrawn
        if not relay.take_back():
            self.decider.stay(relay.r, instance)
            return
        self.instances[instance].running.discard(relay)
        if relay.has_started:
            self.resumed(relay)

    def _refuse(self, relay: Relay) -> None:
        self._forget(relay)
        self.decider.release(relay.r)
        relay.answer(*self._refusals.refused(relay))
        self._finish(relay, "refused")

    def _give_up(self, relay: Relay, outcome: str) -> None:
        self._forget(relay)
        self.decider.lose(relay.r, self._clock())
        self._finish(relay, outcome)

    def _forget(self, relay: Relay) -> None:
        self.relays[relay.r] = None
        if relay.at.instance is not None:
            self.instances[relay.at.instance].running.discard(relay)

    def _finish(self, relay: Relay, outcome: str) -> None:
        self._expiries.pop(relay).cancel()
        self._listener.finished(relay, outcome)


def _judged(passage: Passage) -> str:
    return "missed" if passage.is_late else "attained"
