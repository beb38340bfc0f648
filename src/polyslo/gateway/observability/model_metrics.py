"""How a model's requests are counted for Prometheus: once a request or decision, never once a token.

Children of a label are looked up once and kept, because looking them up costs as much as counting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from prometheus_client import Counter, Histogram

from polyslo.core.state import DISPATCH, PROMOTED, REASONS, REFUSE, RELEGATE, SCALED_UP, TAKEN_OVER, TRANSFER
from polyslo.gateway.observability.label_values import LabelValues
from polyslo.gateway.observability.request_families import RequestFamilies
from polyslo.gateway.relays.listeners import NOBODYS_MISS, OUTCOMES, counts
from polyslo.gateway.relays.placement import Placement
from polyslo.gateway.relays.relay import Relay
from polyslo.gateway.served_model import ServedModel

NO_TENANT = "none"

# Of requests that were never dispatched: how the llm-d router calls what became of them in its queue.
QUEUE_OUTCOMES = {
    "refused": "RejectedOther",
    "failed": "EvictedTTL",
    "cancelled": "EvictedContextCancelled",
    "saturated": "RejectedCapacity",
    "expired": "EvictedTTL",
    "shutting_down": "EvictedOther",
}
DISPATCHED = "Dispatched"
ANSWERED = frozenset({"attained", "missed", "served"})
LATE = ("ttft", "tpot", "whole")  # of an answer that is not streamed: its end


@dataclass(frozen=True, slots=True)
class _Tier:
    """The children of one tier's label that every request moves."""

    requests: Counter
    over: Counter
    met: Counter
    ttft: Histogram
    tpot: Histogram
    foreseen_ttft: Histogram
    foreseen_tpot: Histogram
    error: Histogram
    duration: Histogram
    queued: Histogram
    dispatched: Counter
    prompt_tokens: Counter
    output_tokens: Counter


class ModelMetrics:
    """The `Listener` that counts a model's requests for Prometheus."""

    def __init__(
        self,
        families: RequestFamilies,
        model: str,
        tenants: LabelValues,
        named: LabelValues,
        tiers: LabelValues,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._families = families
        self._model = model
        self._tenants = tenants
        self._named = named
        self._tier_labels = tiers  # learned ones move, so they are bounded too
        self._clock = clock
        self._tiers: dict[str, _Tier] = {}
        self._groups: dict[int, int] = {}

    def arrived(self, relay: Relay) -> None:
        """See `Listener`."""
        self._tier(relay).requests.inc()
        self._families.named.labels(self._named.of(relay.passage.ask.model)).inc()

    def decided(self, model: ServedModel, relay: Relay, kind: int, i: int) -> None:
        """See `Listener`."""
        if kind == DISPATCH:
            placement = relay.passage.placement
            if placement is not None:
                self._dispatched(model, relay, placement, i)
        elif kind == TRANSFER:
            self._families.transfers.labels(*self._labels(relay)).inc()
            self._families.prefill.labels(*self._labels(relay)).observe(relay.at.prefilled_s - relay.passage.sent_s)
        elif kind in (RELEGATE, REFUSE):
            families, labels = self._families, self._labels(relay)
            if kind == RELEGATE:
                families.relegations.labels(*labels).inc()
            bits = int(model.fleet.requests["reasons"][relay.r])
            for k in range(1, len(REASONS)):
                if bits >> k & 1:
                    families.refusals.labels(*labels, REASONS[k]).inc()

    def moved(self, model: ServedModel, i: int) -> None:
        """See `Listener`: an instance has another group now."""
        if model.instances.get(i) is None:
            return
        group, num_tiers = int(model.fleet.instances["group"][i]), len(model.fleet.tpots_s)
        before = self._groups.get(i, num_tiers + 1)
        self._groups[i] = group
        if before < num_tiers and group != before:
            event = "down" if group > num_tiers else "moved"
            self._families.scaled.labels(self._model, model.tier_labels[before], event).inc()

    def health_changed(self, model: ServedModel, i: int) -> None:
        """See `Listener`."""
        news = model.instances[i].news
        self._families.health.labels(self._model, news).inc()
        if news in ("joined", "left"):  # another one may get its slot
            self._groups.pop(i, None)

    def finished(self, relay: Relay, outcome: str) -> None:
        """See `Listener`."""
        families, passage, tier = self._families, relay.passage, self._tier(relay)
        self._count_tenant(relay, outcome)
        if passage.num_failures:
            families.retries.labels(*self._labels(relay)).inc(passage.num_failures)
        if passage.placement is None:
            self._left_queue(relay, outcome)
        if outcome not in ANSWERED:
            families.errors.labels(*self._labels(relay), outcome).inc()
        if outcome in NOBODYS_MISS:
            return
        if counts(relay.request, outcome):
            tier.over.inc()
        if outcome == "attained":
            tier.met.inc()
        if passage.tokens:
            self._measure(relay, tier)

    def _dispatched(self, model: ServedModel, relay: Relay, placement: Placement, i: int) -> None:
        families, labels, tier = self._families, self._labels(relay), self._tier(relay)
        families.placements.labels(*labels, placement.rung).inc()
        if relay.passage.num_tries == 0:
            tier.dispatched.inc()
            tier.queued.observe(placement.at_s - relay.request.arrival_s)
        record = model.fleet.requests[relay.r]
        rung = int(record["rung"])
        if rung == PROMOTED:
            host = int(model.fleet.instances["group"][int(record["decode_instance"]) if record["hands_over"] else i])
            families.promotions.labels(*labels, model.tier_labels[host]).inc()
        elif rung in (SCALED_UP, TAKEN_OVER):
            families.scaled.labels(*labels, "up" if rung == SCALED_UP else "taken_over").inc()
        if placement.predicted_ttft_s is not None and placement.predicted_tpot_s is not None:
            tier.foreseen_ttft.observe(placement.predicted_ttft_s)
            tier.foreseen_tpot.observe(placement.predicted_tpot_s)

    def _left_queue(self, relay: Relay, outcome: str) -> None:
        """Count a request that was never dispatched."""
        name = QUEUE_OUTCOMES.get(outcome, "EvictedOther")
        self._families.queue_outcomes.labels(name).inc()
        waited_s = self._clock() - relay.request.arrival_s
        self._families.queued.labels(*self._labels(relay), name).observe(waited_s)

    def _measure(self, relay: Relay, tier: _Tier) -> None:
        """Observe the times of a request that got tokens."""
        passage, request = relay.passage, relay.request
        tier.prompt_tokens.inc(passage.prompt_tokens or request.input_tokens)
        tier.output_tokens.inc(passage.tokens)
        tier.duration.observe(passage.last_token_s - request.arrival_s)
        if not request.is_streamed:  # its first token was not seen
            if passage.is_late:
                self._families.violations.labels(*self._labels(relay), "whole").inc()
            return
        ttft_s = passage.first_token_s - request.arrival_s
        tier.ttft.observe(ttft_s)
        if passage.placement is not None and passage.placement.predicted_ttft_s is not None:
            tier.error.observe(ttft_s - passage.placement.predicted_ttft_s)
        if passage.tokens > 1:
            tier.tpot.observe((passage.last_token_s - passage.first_token_s) / (passage.tokens - 1))
        if passage.is_late:
            what = "ttft" if ttft_s > request.ttft_s else "tpot"
            self._families.violations.labels(*self._labels(relay), what).inc()

    def _count_tenant(self, relay: Relay, outcome: str) -> None:
        passage = relay.passage
        tenant = NO_TENANT if passage.tenant is None else self._tenants.of(passage.tenant)
        self._families.tenants.labels(tenant, outcome).inc()
        if passage.tokens:
            tokens = passage.tokens + (passage.prompt_tokens or relay.request.input_tokens)
            self._families.tenant_tokens.labels(tenant).inc(tokens)

    def _labels(self, relay: Relay) -> tuple[str, str]:
        return self._model, self._tier_labels.of(relay.passage.tier_label)

    def _tier(self, relay: Relay) -> _Tier:
        label = self._tier_labels.of(relay.passage.tier_label)
        tier = self._tiers.get(label)
        if tier is None:
            tier = self._tiers[label] = _tier_of(self._families, self._model, label)
        return tier


def door_outcome(reason: str) -> str | None:
    """Return how a request that was turned away left the queue; None for one that never could have entered it."""
    return QUEUE_OUTCOMES.get(reason)


def _tier_of(families: RequestFamilies, *labels: str) -> _Tier:
    """Return a tier's children. What may stay zero is told as zero: a rate of nothing compares with nothing."""
    families.relegations.labels(*labels)
    families.retries.labels(*labels)
    for outcome in OUTCOMES:
        if outcome not in ANSWERED:
            families.errors.labels(*labels, outcome)
    for what in LATE:
        families.violations.labels(*labels, what)
    return _Tier(
        requests=families.requests.labels(*labels),
        over=families.over.labels(*labels),
        met=families.met.labels(*labels),
        ttft=families.ttft.labels(*labels),
        tpot=families.tpot.labels(*labels),
        foreseen_ttft=families.foreseen_ttft.labels(*labels),
        foreseen_tpot=families.foreseen_tpot.labels(*labels),
        error=families.error.labels(*labels),
        duration=families.duration.labels(*labels),
        queued=families.queued.labels(*labels, DISPATCHED),
        dispatched=families.queue_outcomes.labels(DISPATCHED),
        prompt_tokens=families.prompt_tokens.labels(*labels),
        output_tokens=families.output_tokens.labels(*labels),
    )
