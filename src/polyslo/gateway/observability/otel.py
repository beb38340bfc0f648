"""Requests as OpenTelemetry spans: one a request, from its arrival to its end, decisions and first token as events.

The only module that imports OpenTelemetry. Names of attributes are those of the semantic conventions for generative AI
(`gen_ai.*`); what is ours is `polyslo.*`, times in seconds. Prompts, answers and keys are in none. Spans are exported
in batches by a thread of the SDK; what its bounded queue has no room for is dropped.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from polyslo.core.state import DISPATCH, RELEGATE, TRANSFER, WITHDRAW
from polyslo.gateway.relays.listeners import Doorkeeper, Listener, Visitor
from polyslo.gateway.relays.relay import Relay
from polyslo.gateway.requests.body import CHAT
from polyslo.gateway.requests.trace_context import context_headers, trace_context
from polyslo.gateway.served_model import ServedModel

# How long the exporting thread may keep the interpreter while the event loop wants it; usually 5 ms, which every stream
# would wait several times for each batch.
SWITCH_INTERVAL_S = 0.0005
STOP_S = 5.0  # how long what is left may take to be sent at the end
TRACES_PATH = "/v1/traces"
FAILURES = frozenset({"failed", "refused"})  # outcomes that are errors of this side
MOST_CHARS = 128  # of a name that a client chose

_W3C = TraceContextTextMapPropagator()


def open_otlp(endpoint: str | None) -> OtelTraces:
    """Return traces that go to an OTLP endpoint; without one to that of the environment."""
    has_path = endpoint is not None and "/" in endpoint.split("://", 1)[1].rstrip("/")
    url = endpoint if endpoint is None or has_path else endpoint.rstrip("/") + TRACES_PATH
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
    return OtelTraces(provider)


class OtelTraces:
    """Traces of a provider; see `Traces`. It is ours alone: the process's global one is left as it is."""

    def __init__(self, provider: TracerProvider, clock: Callable[[], float] = time.monotonic) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("polyslo", version("polyslo"))
        self._clock = clock
        self._usual_interval_s = sys.getswitchinterval()
        sys.setswitchinterval(min(SWITCH_INTERVAL_S, self._usual_interval_s))

    @property
    def doorkeepers(self) -> Sequence[Doorkeeper]:
        """See `Traces`."""
        return (self,)

    def listeners(self, model: str) -> Sequence[Listener]:
        """See `Traces`."""
        return (RequestSpans(self._tracer, self._clock),)

    def turned_away(self, visitor: Visitor, reason: str) -> None:
        """See `Doorkeeper`: a span without a length, so that a client's trace does not end in nothing."""
        context = _W3C.extract(trace_context(visitor.headers))
        attributes = {"gen_ai.operation.name": _operation(visitor.path == CHAT), "error.type": reason}
        span = self._tracer.start_span("turned away", context, SpanKind.SERVER, attributes)
        span.set_status(StatusCode.ERROR)
        span.end()

    async def stop(self) -> None:
        """See `Traces`: on a thread that nobody waits for longer than this."""
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            if not loop.is_closed():
                loop.call_soon_threadsafe(stopped.set)

        threading.Thread(target=shut_down, name="end of traces", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await stopped.wait()
        sys.setswitchinterval(self._usual_interval_s)


@dataclass(frozen=True, slots=True)
class _Trace:
    """A request's span. The conversion of times is fixed at its start, so that a clock that is set bends none."""

    span: Span
    arrival_s: float
    start_ns: int

    def ns(self, at_s: float) -> int:
        """Return a moment of the monotonic clock as the span counts it."""
        return self.start_ns + int(1e9 * (at_s - self.arrival_s))


class RequestSpans:
    """The `Listener` that makes spans."""

    def __init__(self, tracer: Any, clock: Callable[[], float]) -> None:
        self._tracer = tracer
        self._clock = clock
        self._traces: dict[Relay, _Trace] = {}

    def arrived(self, relay: Relay) -> None:
        """See `Listener`: the engine's spans will be children of this one."""
        ask, arrival_s = relay.passage.ask, relay.request.arrival_s
        operation, model = _operation(ask.is_chat), ask.model[:MOST_CHARS]
        start_ns = time.time_ns() - int(1e9 * (self._clock() - arrival_s))
        span = self._tracer.start_span(
            f"{operation} {model}",
            _W3C.extract(relay.passage.trace_context),
            SpanKind.SERVER,
            {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "polyslo",
                "gen_ai.request.model": model,
                "polyslo.tier": relay.passage.tier_label,
            },
            start_time=start_ns,
        )
        self._traces[relay] = _Trace(span, arrival_s, start_ns)
        own: dict[str, str] = {}
        _W3C.inject(own, set_span_in_context(span))
        relay.trace(context_headers(own))

    def decided(self, model: ServedModel, relay: Relay, kind: int, i: int) -> None:
        """See `Listener`."""
        trace = self._traces.get(relay)
        if trace is None or not trace.span.is_recording():
            return
        placement = relay.passage.placement
        if kind == DISPATCH and placement is not None:
            told = {"polyslo.instance": placement.instance, "polyslo.rung": placement.rung}
            trace.span.add_event("dispatch", told, trace.ns(placement.at_s))
        elif kind == TRANSFER and placement is not None:
            trace.span.add_event("transfer", {"polyslo.instance": placement.instance}, trace.ns(self._clock()))
        elif kind in (WITHDRAW, RELEGATE):
            name = "withdrawn" if kind == WITHDRAW else "relegated"
            trace.span.add_event(name, timestamp=trace.ns(self._clock()))

    def moved(self, model: ServedModel, i: int) -> None:
        """See `Listener`."""

    def health_changed(self, model: ServedModel, i: int) -> None:
        """See `Listener`."""

    def finished(self, relay: Relay, outcome: str) -> None:
        """See `Listener`."""
        trace = self._traces.pop(relay)
        span = trace.span
        if not span.is_recording():
            return
        if relay.passage.tokens and relay.request.is_streamed:
            span.add_event("first_token", timestamp=trace.ns(relay.passage.first_token_s))
        span.set_attributes(_attributes(relay, outcome))
        if outcome in FAILURES:
            span.set_attribute("error.type", outcome)
            span.set_status(StatusCode.ERROR)
        span.end(trace.ns(self._clock()))


def _attributes(relay: Relay, outcome: str) -> dict[str, str | int | float | bool]:
    """Return what is known of a request at its end."""
    passage, request = relay.passage, relay.request
    told: dict[str, str | int | float | bool] = {
        "gen_ai.usage.input_tokens": passage.prompt_tokens or request.input_tokens,
        "gen_ai.usage.output_tokens": passage.tokens,
        "polyslo.request_id": passage.request_id,
        "polyslo.outcome": outcome,
        "polyslo.tries": passage.num_tries,
        "polyslo.is_relegated": passage.is_relegated,
    }
    if not request.is_best_effort:
        told |= {"polyslo.ttft_slo_s": request.ttft_s, "polyslo.tpot_slo_s": request.tpot_s}
    if passage.ask.max_tokens is not None:
        told["gen_ai.request.max_tokens"] = passage.ask.max_tokens
    placement = passage.placement
    if placement is not None:
        told["polyslo.instance"] = placement.instance
        told["polyslo.rung"] = placement.rung
        if placement.prefill_instance is not None:
            told["polyslo.prefill_instance"] = placement.prefill_instance
        told["polyslo.queue_s"] = placement.at_s - request.arrival_s
        if placement.predicted_ttft_s is not None and placement.predicted_tpot_s is not None:
            told["polyslo.predicted_ttft_s"] = placement.predicted_ttft_s
            told["polyslo.predicted_tpot_s"] = placement.predicted_tpot_s
    if passage.tokens and request.is_streamed:
        told["polyslo.ttft_s"] = passage.first_token_s - request.arrival_s
        if passage.tokens > 1:
            told["polyslo.tpot_s"] = (passage.last_token_s - passage.first_token_s) / (passage.tokens - 1)
    return told


def _operation(is_chat: bool) -> str:
    return "chat" if is_chat else "text_completion"


def _resource() -> Resource:
    """Return who we are; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` go before our own name."""
    told = {"service.version": version("polyslo")}
    if not os.environ.get("OTEL_SERVICE_NAME") and "service.name=" not in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        told["service.name"] = "polyslo"
    return Resource.create(told)
