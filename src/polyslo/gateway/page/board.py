"""What the page shows: the fleet as it stands, the last minutes of every tier, and what was decided.

Kept for people, not for decisions: nothing here is read by the policy. Bounded: old requests and events are dropped.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from polyslo.core.state import (
    DISPATCH,
    NONE,
    PROMOTED,
    REASONS,
    REFUSE,
    RELEGATE,
    RUNGS,
    SCALED_UP,
    STAGES,
    TAKEN_OVER,
    TRANSFER,
    UNHEALTHY,
)
from polyslo.gateway.instances.instance import Instance
from polyslo.gateway.instances.load import instance_load
from polyslo.gateway.page.stories import Step, Stories, Story
from polyslo.gateway.page.windows import BUCKET_S, MINUTE_BUCKETS, NUM_BUCKETS, TierWindow, quantile
from polyslo.gateway.relays.foreseen import first_token_s
from polyslo.gateway.relays.listeners import OUTCOMES, counts
from polyslo.gateway.relays.relay import Relay
from polyslo.gateway.requests.request import Request
from polyslo.gateway.served_model import ServedModel

MOST_EVENTS = 200
MOST_SHOWN = 100
NUM_TOKEN_MARKS = 12  # ticks over which tokens a second are told
EVENT_OF_RUNG = {  # its kind, and what it says of the instance
    PROMOTED: ("promotion", "to {}, of a tighter tier"),
    SCALED_UP: ("scale_up", "{} came from the idle pool"),
    TAKEN_OVER: ("take_over", "{} came from another tier"),
}


class Board:
    """The `Listener` of a served model that keeps what people look at."""

    def __init__(self, clock: Callable[[], float], num_tiers: int) -> None:
        self._clock = clock
        self._started_s = clock()
        self._offset_s = time.time() - clock()
        self.windows = [TierWindow(clock()) for _ in range(num_tiers)]
        self.stories = Stories()
        self.events: deque[Step] = deque(maxlen=MOST_EVENTS)
        self.totals = dict.fromkeys(("requests", *OUTCOMES), 0)
        self.num_tokens = 0  # of requests that are over
        self._token_marks: deque[tuple[float, int]] = deque([(clock(), 0)], maxlen=NUM_TOKEN_MARKS)
        self._groups: dict[int, int] = {}
        self._since_s: dict[int, float] = {}

    def arrived(self, relay: Relay) -> None:
        """See `Listener`."""
        self.totals["requests"] += 1
        story = self.stories.begin(relay)
        wish = ", best effort" if relay.request.is_best_effort else ""
        self._step(story, "arrived", f"{relay.request.input_tokens} prompt tokens{wish}")

    def decided(self, model: ServedModel, relay: Relay, kind: int, i: int) -> None:
        """See `Listener`."""
        record = model.fleet.requests[relay.r]
        story = self.stories.get(relay.passage.request_id)
        if kind == DISPATCH:
            rung = int(record["rung"])
            name = model.instances[i].name
            if story:
                self._step(story, "placed", name, i, rung=RUNGS[rung],
                           predicted_ttft_s=_finite(first_token_s(model.fleet, relay.r) - relay.request.arrival_s),
                           predicted_tpot_s=_finite(float(record["predicted_tpot_s"])))  # fmt: skip
            if rung in EVENT_OF_RUNG:
                event, says = EVENT_OF_RUNG[rung]
                self._event(event, says.format(name), relay, i)
        elif kind == TRANSFER:
            if story:
                self._step(story, "transferred", f"prefilled, its KV goes to {model.instances[i].name}", i)
        elif kind == RELEGATE:
            self._event("relegation", "can no longer meet its TTFT: best-effort from now on", relay, None)
            if story:
                self._step(story, "relegated", _reasons(int(record["reasons"])))
        elif kind == REFUSE:
            self._event("refusal", _reasons(int(record["reasons"])), relay, None)

    def moved(self, model: ServedModel, i: int) -> None:
        """See `Listener`: an instance has another group now."""
        instance = model.instances.get(i)
        if instance is None:
            return
        group, before = int(model.fleet.instances["group"][i]), self._groups.get(i)
        self._groups[i] = group
        self._since_s[i] = self._clock()
        num_tiers = len(model.fleet.tpots_s)
        if before is not None and group == num_tiers + 1 and before < num_tiers:
            self._event("scale_down", f"{instance.name} is idle", None, i, before)

    def health_changed(self, model: ServedModel, i: int) -> None:
        """See `Listener`."""
        instance = model.instances[i]
        self._event(instance.news, instance.name, None, i)
        if instance.news in ("joined", "left"):
            self._groups.pop(i, None)
            self._since_s[i] = self._clock()

    def finished(self, relay: Relay, outcome: str) -> None:
        """See `Listener`."""
        now_s, passage, request = self._clock(), relay.passage, relay.request
        self.totals[outcome] += 1
        self.num_tokens += passage.tokens
        window = self.windows[request.tier]
        if counts(request, outcome):
            window.add(attained=outcome == "attained")
        if passage.tokens and request.is_streamed and not request.is_best_effort:  # else its first token was not seen
            steps = max(1, passage.tokens - 1)
            tpot_s = (passage.last_token_s - passage.first_token_s) / steps
            window.measure(now_s, passage.first_token_s - request.arrival_s, tpot_s)
        story = self.stories.get(relay.passage.request_id)
        if story and story.relay is relay:
            story.relay, story.outcome = None, outcome
            story.tokens, story.instance = passage.tokens, relay.at.instance
            if passage.first_token_s and request.is_streamed:
                self._step(story, "first_token", "", relay.at.instance, at_s=passage.first_token_s)
            self._step(story, outcome, f"{passage.tokens} tokens", relay.at.instance)

    def tick(self, model: ServedModel) -> None:
        """Keep what the page shows over time; to be called about once a second, whether or not anybody looks."""
        now_s = self._clock()
        self._token_marks.append((now_s, self.num_tokens_of(model)))
        for k, (window, owned) in enumerate(zip(self.windows, _owned(model), strict=True)):
            window.advance(now_s, owned, int(model.fleet.pending_size[k]))

    def snapshot(self, model: ServedModel, policy: str) -> dict[str, Any]:
        """Return the model's fleet as it stands, as `GET /state` shows it."""
        now_s = self._clock()
        fleet = model.fleet
        since_s, tokens = self._token_marks[0]
        new_tokens = max(0, self.num_tokens_of(model) - tokens)  # engines may count fewer at a stream's end
        groups = fleet.group_size.tolist()
        return {
            "now_unix_s": now_s + self._offset_s,
            "version": version("polyslo"),
            "uptime_s": now_s - self._started_s,
            "policy": policy,
            "mode": "pd" if fleet.settings["disaggregated"][0] else "co",
            "model": model.name,
            "tiers": [self._tier(model, k, owned, now_s) for k, owned in enumerate(_owned(model))],
            "pool": {
                "num_idle": groups[-1] - int(fleet.settings["num_closed_idle"][0]),
                "num_unhealthy": sum(instance.closed == UNHEALTHY for instance in model.instances),
            },
            "instances": [self._instance(model, instance, now_s) for instance in model.instances],
            "events": list(reversed(self.events)),
            "best_effort": {
                "num_running": int(fleet.instances["num_best_effort"].sum()),
                "num_waiting": int(fleet.pending_size[-1]),
            },
            "totals": {
                **self.totals,
                "in_flight": model.num_in_flight,
                "tokens_per_s": new_tokens / (now_s - since_s) if now_s > since_s else 0.0,
            },
            "requests": self._recent(model, now_s),
        }

    def story(self, request_id: str) -> dict[str, Any] | None:
        """Return what became of a request; None when it is not known (any more)."""
        story = self.stories.get(request_id)
        if story is None:
            return None
        request, outcome, steps = story.request, story.outcome, list(story.steps)
        passage = None if story.relay is None else story.relay.passage
        if passage and passage.first_token_s and request.is_streamed:  # it is told at the end, but known already
            steps.append(self._stepped("first_token", "", story.place, passage.first_token_s))
        return {
            "id": request_id,
            "tier": _tier_of(request),
            "slo": _slo_of(request),
            "input_tokens": request.input_tokens,
            "output_tokens": story.num_tokens,
            "is_streamed": request.is_streamed,
            "outcome": outcome,
            "attained": None if outcome is None or not counts(request, outcome) else outcome == "attained",
            "steps": sorted(steps, key=lambda step: step["unix_s"]),
            "tokens": [],
        }

    def _tier(self, model: ServedModel, k: int, owned: int, now_s: float) -> dict[str, Any]:
        fleet, window = model.fleet, self.windows[k]
        pending = int(fleet.pending_size[k])
        window.advance(now_s, owned, pending)
        requests, attained = window.count(MINUTE_BUCKETS)
        all_requests, all_attained = window.count(NUM_BUCKETS)
        ttfts, tpots = window.ttfts_s(now_s - 60.0), window.tpots_s(now_s - 60.0)
        waiting = [float(fleet.requests["arrival_s"][r]) for r in fleet.pending[k, :pending].tolist()]
        records = fleet.requests
        running = (records["tier"] == k) & (records["instance"] != NONE) & (records["best_effort"] == 0)
        return {
            "index": k,
            "tpot_ms": 1e3 * float(fleet.tpots_s[k]),
            "num_instances": owned,
            "num_pending": pending,
            "oldest_pending_s": now_s - min(waiting) if waiting else 0.0,
            "num_running": sum(1 for r in running.nonzero()[0].tolist() if model.relays[r] is not None),
            "attainment_1m": attained / requests if requests else None,
            "attainment_5m": all_attained / all_requests if all_requests else None,
            "num_requests_1m": requests,
            "rps": requests / (MINUTE_BUCKETS * BUCKET_S),
            "ttft_p50_s": quantile(ttfts, 0.5),
            "ttft_p99_s": quantile(ttfts, 0.99),
            "tpot_p50_s": quantile(tpots, 0.5),
            "tpot_p99_s": quantile(tpots, 0.99),
            "history": {
                "attainment": [b.attained / b.requests if b.requests else None for b in window.buckets],
                "instances": [b.instances for b in window.buckets],
                "pending": [b.pending for b in window.buckets],
                "rps": [b.requests / BUCKET_S for b in window.buckets],
            },
        }

    def _instance(self, model: ServedModel, instance: Instance, now_s: float) -> dict[str, Any]:
        fleet, i = model.fleet, instance.index
        record, num_tiers = fleet.instances[i], len(fleet.tpots_s)
        group = int(record["group"])
        load = instance_load(fleet, i)
        name = "tier" if group < num_tiers else ("prefill" if group == num_tiers else "idle")
        return {
            "index": i,
            "name": instance.name,
            "group": name if instance.standing == "ready" else instance.standing,
            "tier": group if group < num_tiers else None,
            "rank": int(record["rank"]),
            "load_ratio": load.load_ratio,
            "slack_s": load.slack_s,
            "kv_ratio": float(record["kv_tokens"] / record["kv_capacity_tokens"]),
            "num_decodes": int(record["num_decodes"]),
            "num_queued": int(record["num_queued"]),
            "queued_tokens": int(record["queued_tokens"]),
            "iteration_s": load.iteration_s,
            "slowness_ratio": float(model.decider.streams.slowness_ratio[i]),
            "since_s": now_s - self._since_s.get(i, self._started_s),
        }

    def _recent(self, model: ServedModel, now_s: float) -> list[dict[str, Any]]:
        shown = []
        for story in reversed(self.stories.values()):
            request, relay, tokens = story.request, story.relay, story.num_tokens
            due_s = request.arrival_s + request.ttft_s + tokens * request.tpot_s
            stage = STAGES[int(model.fleet.requests["stage"][relay.r])] if relay is not None else story.outcome
            shown.append(
                {
                    "id": story.request_id,
                    "tier": _tier_of(request),
                    "stage": stage,
                    "instance": story.place,
                    "age_s": now_s - request.arrival_s,
                    "emitted_tokens": tokens,
                    "slack_s": due_s - now_s if relay is not None and not request.is_best_effort else None,
                }
            )
            if len(shown) == MOST_SHOWN:
                break
        return shown

    def num_tokens_of(self, model: ServedModel) -> int:
        """Return the output tokens of a model until now."""
        told = self.num_tokens + sum(relay.passage.tokens for relay in model.relays if relay is not None)
        return told + (0 if model.bypass is None else model.bypass.num_unheard)

    def _step(self, story: Story, kind: str, text: str, i: int | None = None, at_s: float = 0.0, **told: Any) -> None:
        story.steps.append(self._stepped(kind, text, i, at_s or self._clock(), **told))

    def _stepped(self, kind: str, text: str, i: int | None, at_s: float, **told: Any) -> Step:
        return {"unix_s": at_s + self._offset_s, "kind": kind, "instance": i, "text": text, **told}

    def _event(self, kind: str, text: str, relay: Relay | None, i: int | None, tier: int | None = None) -> None:
        self.events.append(
            {
                "unix_s": self._clock() + self._offset_s,
                "kind": kind,
                "tier": _tier_of(relay.request) if relay else tier,
                "instance": i,
                "request": relay.passage.request_id if relay else None,
                "text": text,
            }
        )


def _tier_of(request: Request) -> int | None:
    return None if request.is_best_effort else request.tier


def _slo_of(request: Request) -> dict[str, float] | None:
    return None if request.is_best_effort else {"ttft_ms": 1e3 * request.ttft_s, "tpot_ms": 1e3 * request.tpot_s}


def _owned(model: ServedModel) -> list[int]:
    """Return each tier's instances that take requests; a group's size counts slots without an instance, too."""
    groups, owned = model.fleet.instances["group"].tolist(), [0] * len(model.fleet.tpots_s)
    for instance in model.instances:
        if instance.standing == "ready" and groups[instance.index] < len(owned):
            owned[groups[instance.index]] += 1
    return owned


def _reasons(bits: int) -> str:
    names = [REASONS[k] for k in range(1, len(REASONS)) if bits >> k & 1]
    return f"refused for {', '.join(names)}" if names else "no instance could be asked"


def _finite(number: float) -> float | None:
    return number if 0.0 <= number < 1e9 else None
