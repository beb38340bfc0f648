"""A model that is served: its instances, the decider over them, and the requests under way.

The event loop's one thread does everything, so between reading state and having decided nothing else happens. News
of streams is gathered for a moment and digested together: engines send a step's tokens one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Protocol

import orjson

from polyslo.core.state import (
    DISPATCH,
    FITS,
    REFUSE,
    RELEGATE,
    RETIER,
    RUNGS,
    UNHEALTHY,
    WITHDRAW,
    Fleet,
)
from polyslo.gateway.body import encode_body
from polyslo.gateway.decider import Decider
from polyslo.gateway.relay import Header, Passage, Relay
from polyslo.gateway.request import Request
from polyslo.gateway.shadow import Shadow
from polyslo.gateway.tokens import TokenEstimate
from polyslo.wire.client import Failure, Origin
from polyslo.wire.server import Exchange

TICK_S = 0.005  # while requests pend: their deadlines pass
IDLE_TICK_S = 0.1
GATHER_S = 0.002  # news is digested this long after its first piece: an engine writes a step's tokens one by one
DELAY_S = 0.001  # from the end of a step in an engine to its news here, about, and from here to there


@dataclass(slots=True)
class Instance:
    """An engine behind one address."""

    index: int
    name: str
    url: str
    origin: Origin
    api_key: str | None = field(default=None, repr=False)  # that the engine wants
    closed: int = FITS
    running: set[int] = field(default_factory=set)  # requests sent there


@dataclass(frozen=True, slots=True)
class Patience:
    """How long engines are waited for, and how often a request is tried."""

    head_timeout_s: float = 600.0
    idle_timeout_s: float = 60.0
    max_retries: int = 2


class Listener(Protocol):
    """What is told of decisions and outcomes: metrics, logs, the page."""

    def arrived(self, relay: Relay) -> None:
        """A request was taken in."""

    def decided(self, model: ServedModel, relay: Relay, kind: int, i: int) -> None:
        """A decision about a request is carried out."""

    def moved(self, model: ServedModel, i: int) -> None:
        """An instance changed its group."""

    def health_changed(self, model: ServedModel, i: int) -> None:
        """An instance was closed or opened."""

    def finished(self, relay: Relay, outcome: str) -> None:
        """A request is over: attained, missed, refused, failed or cancelled."""


class HealthWatch(Protocol):
    """What is told how requests fare at instances."""

    def succeeded(self, i: int) -> None:
        """A request went well there."""

    def failed(self, i: int, *, at_once: bool = False) -> None:
        """A request failed there; `at_once`: there was not even a connection."""


class Refusals(Protocol):
    """How answers that no engine gives are worded."""

    def refused(self, relay: Relay) -> tuple[int, Sequence[Header], bytes]:
        """Answer a request that can't be served in time."""

    def unavailable(self, relay: Relay, failure: Failure | int) -> tuple[int, Sequence[Header], bytes]:
        """Answer a request whose instances failed."""


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
        patience: Patience = Patience(),
        tells_slos: bool = False,
        slack_s: float = 0.0,
    ) -> None:
        self.name = name
        self.policy = policy
        self.tier_labels = tuple(f"{1e3 * tpot_s:g}ms" for tpot_s in fleet.tpots_s.tolist())
        self.fleet = fleet
        self.instances = list(instances)
        self.relays: list[Relay | None] = [None] * len(fleet.requests)
        self.kv_capacity_tokens = int(fleet.instances["kv_capacity_tokens"].min())
        self.estimates = (TokenEstimate(), TokenEstimate())  # of prompts' tokens: completions, chat
        self.decider = Decider(fleet, policy, self._carry_out, delay_s=DELAY_S)
        self._refusals = refusals
        self._listener = listener
        self._patience = patience
        self._tells_slos = tells_slos
        self._slack_s = slack_s
        self.health: HealthWatch | None = None
        self.shadow: Shadow | None = None
        self._loop = asyncio.get_running_loop()
        self._digest_is_due = False
        self._ticker = self._loop.call_later(IDLE_TICK_S, self._tick)
        for i in range(len(self.instances), len(fleet.instances)):
            self.decider.close(i, UNHEALTHY, monotonic())  # room for instances that come later

    @property
    def num_in_flight(self) -> int:
        """Requests that are not over."""
        return len(self.relays) - self.decider.num_free

    def admit(
        self,
        exchange: Exchange,
        body: bytes,
        request: Request,
        headers: Sequence[Header],
        passage: Passage,
    ) -> Relay | None:
        """Take a request in and decide about it at once; None when there is no room for one more."""
        r = self.decider.enter()
        if r is None:
            return None
        relay = Relay(r, exchange, body, request, self, monotonic, headers, passage)
        self.relays[r] = relay
        self._listener.arrived(relay)
        self._decide(relay)
        return relay

    def close_instance(self, i: int, reason: int) -> None:
        """Send an instance nothing new, for a reason of `core.state`; FITS opens it again."""
        self.instances[i].closed = reason
        self.decider.close(i, reason, monotonic())
        self._listener.health_changed(self, i)

    def stop(self) -> None:
        """Stop the clock; requests under way go on."""
        self._ticker.cancel()

    def saw_tokens(self, r: int, tokens: int) -> None:
        """See `Watcher`."""
        self.decider.saw_tokens(r, tokens, monotonic())
        self._digest_soon()

    def ended(self, relay: Relay, output_tokens: int) -> None:
        """See `Watcher`."""
        self._forget(relay)
        if self.health is not None and relay.instance is not None:
            self.health.succeeded(relay.instance)
        if relay.passage.prompt_tokens is not None:
            self.estimates[relay.passage.ask.is_chat].learn(relay.passage.ask, relay.passage.prompt_tokens)
        self.decider.saw_end(relay.r, output_tokens, monotonic())
        self._digest_soon()
        self._listener.finished(relay, "missed" if relay.passage.is_late else "attained")

    def failed(self, relay: Relay, failure: Failure | int) -> bool:
        """See `Watcher`: before the client was sent anything, another instance is tried."""
        self._forget(relay)
        now_s = monotonic()
        self._note_failure(relay, failure)
        self.decider.lose(relay.r, now_s)
        may_help = not isinstance(failure, int) or failure >= 429
        if not relay.has_started and may_help and relay.passage.num_tries <= self._patience.max_retries:
            again = self.decider.enter()
            assert again is not None  # one was freed just now
            relay.r = again
            self.relays[again] = relay
            self._decide(relay)
            return True
        if not isinstance(failure, int) and not relay.has_started:
            relay.answer(*self._refusals.unavailable(relay, failure))
        self._listener.finished(relay, "failed")
        return False

    def left(self, relay: Relay) -> None:
        """See `Watcher`."""
        self._forget(relay)
        self.decider.lose(relay.r, monotonic())
        self._listener.finished(relay, "cancelled")

    def _note_failure(self, relay: Relay, failure: Failure | int) -> None:
        if self.health is None or relay.instance is None or (isinstance(failure, int) and failure < 500):
            return
        has_no_connection = isinstance(failure, Failure) and failure.kind == "connect"
        self.health.failed(relay.instance, at_once=has_no_connection)

    def _decide(self, relay: Relay) -> None:
        r, request, now_s = relay.r, relay.request, monotonic()
        hurried = replace(request, ttft_s=max(request.ttft_s - self._slack_s, 0.5 * request.ttft_s))
        if self.shadow is None:
            self.decider.arrive(r, hurried, now_s)
            return
        choice = self.shadow.choose(r, hurried, now_s)
        self.decider.arrive(r, hurried, now_s)
        self.shadow.compare(r, choice)

    def _carry_out(self, kind: int, r: int, i: int) -> None:
        if kind == RETIER:
            self._listener.moved(self, i)
            return
        relay = self.relays[r] if r >= 0 else None
        if relay is None:
            return
        if kind == DISPATCH:
            self._dispatch(relay, i)
        elif kind == WITHDRAW:
            if relay.take_back():
                self._leave_instance(relay)
        elif kind == REFUSE:
            self._forget(relay)
            relay.answer(*self._refusals.refused(relay))
            self.decider.release(r)
            self._listener.finished(relay, "refused")
            return
        elif kind == RELEGATE:
            relay.passage.is_relegated = True
        self._listener.decided(self, relay, kind, i)

    def _dispatch(self, relay: Relay, i: int) -> None:
        if relay.has_started:  # withdrawn when its client had been sent some of it: it never stopped
            return
        self.instances[i].running.add(relay.r)
        if relay.passage.wants_receipt:
            relay.passage.told += self._receipt(relay, i)
        relay.send(
            i,
            self.instances[i].origin,
            self._told_slo(relay, i) if self._tells_slos else relay.body,
            head_timeout_s=self._patience.head_timeout_s,
            idle_timeout_s=self._patience.idle_timeout_s,
        )

    def _told_slo(self, relay: Relay, i: int) -> bytes:
        """Return the body with the SLO that the engine's scheduler goes by: its instance's pace, and what is left."""
        record = self.fleet.requests[relay.r]
        told = {
            "polyslo_tpot_ms": round(1e3 * float(record["tpot_s"]), 3),
            "polyslo_pace_ms": round(1e3 * float(self.fleet.instances["budget_s"][i]), 3),
            "polyslo_first_due_ms": round(1e3 * (float(record["first_due_s"]) - monotonic()), 3),
        }
        body = relay.body.rstrip()
        if b'"vllm_xargs"' not in body:  # spliced in: bodies may be large
            return b'%b,"vllm_xargs":%b}' % (body[:-1], orjson.dumps(told))
        given = relay.passage.ask.body.get("vllm_xargs")
        return encode_body({**relay.passage.ask.body, "vllm_xargs": {**(given or {}), **told}})

    def _receipt(self, relay: Relay, i: int) -> tuple[Header, ...]:
        """Return what was decided, as response headers."""
        record, waited_s = self.fleet.requests[relay.r], monotonic() - relay.request.arrival_s
        receipt = {
            "tier": relay.passage.tier_label,
            "rung": RUNGS[int(record["rung"])],
            "instance": self.instances[i].name,
            "predicted-ttft-ms": f"{1e3 * (float(record['predicted_first_s']) - relay.request.arrival_s):.1f}",
            "predicted-tpot-ms": f"{1e3 * float(record['predicted_tpot_s']):.2f}",
            "queue-ms": f"{1e3 * waited_s:.1f}",
        }
        return tuple((f"x-polyslo-{name}".encode(), text.encode()) for name, text in receipt.items())

    def _forget(self, relay: Relay) -> None:
        self.relays[relay.r] = None
        self._leave_instance(relay)

    def _leave_instance(self, relay: Relay) -> None:
        if relay.instance is not None:
            self.instances[relay.instance].running.discard(relay.r)

    def _digest_soon(self) -> None:
        if not self._digest_is_due:
            self._digest_is_due = True
            self._loop.call_later(GATHER_S, self._digest)

    def _digest(self) -> None:
        self._digest_is_due = False
        self.decider.digest(monotonic())

    def _tick(self) -> None:
        self.decider.tick(monotonic())
        pends = bool(self.fleet.pending_size.any())
        self._ticker = self._loop.call_later(TICK_S if pends or self.num_in_flight else IDLE_TICK_S, self._tick)
