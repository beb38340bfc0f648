"""Traces: one span a request, its context continued and passed on; nothing of it where nobody asked."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from gateway_bench import CHAT, COMPLETIONS, MODEL, Bench, Reply, chat, completion, run

from polyslo.engines.emulated_engine import EngineSettings
from polyslo.errors import ConfigError
from polyslo.gateway import app
from polyslo.gateway.config.gateway import parse_config
from polyslo.gateway.config.server import TelemetryConfig
from polyslo.gateway.explain import explain
from polyslo.gateway.observability import traces
from polyslo.gateway.observability.traces import NoTraces, open_traces, wants_traces
from polyslo.wire.client import Origin

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = (b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())
UNSAMPLED = (b"traceparent", f"00-{TRACE}-{PARENT}-00".encode())
PROMPT = "the secret of the pyramids"


@pytest.fixture
def spans(monkeypatch):
    """Trace into memory, every gateway that this test starts."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from polyslo.gateway.observability.otel import OtelTraces

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(app, "open_traces", lambda _: OtelTraces(provider))
    return exporter


@pytest.fixture
def sent(monkeypatch):
    """The headers of each request that the gateway, or a carrier of its, sends an engine."""
    headers_sent, send = [], Origin.send

    def watched(origin, method, target, headers, body, sink, **more):
        if method == b"POST" and not isinstance(sink, Reply):  # else a look at its health, or this test's own client
            headers_sent.append(dict(headers))
        return send(origin, method, target, headers, body, sink, **more)

    monkeypatch.setattr(Origin, "send", watched)
    return headers_sent


def test_a_request_is_a_span_of_its_clients_trace(spans, sent):
    """Parent, kind, name, attributes, and events in the order in which they happened; no prompt anywhere."""

    async def main():
        async with Bench(settings=EngineSettings(dynamic_chunking=True), model={"dynamic_chunking": True}) as bench:
            headers = [TRACEPARENT, (b"tracestate", b"vendor=1"), (b"x-request-id", b"mine")]
            await bench.ask(CHAT, chat(8, prompt=PROMPT, stream=True), headers)
            await bench.settle()
            (span,) = spans.get_finished_spans()
            assert (span.name, span.kind.name, span.status.status_code.name) == (f"chat {MODEL}", "SERVER", "UNSET")
            assert f"{span.context.trace_id:032x}" == TRACE
            assert f"{span.parent.span_id:016x}" == PARENT
            assert [event.name for event in span.events] == ["dispatch", "first_token"]
            moments = [span.start_time, *(event.timestamp for event in span.events), span.end_time]
            assert moments == sorted(moments)
            told = dict(span.attributes)
            assert told["gen_ai.operation.name"] == "chat"
            assert told["gen_ai.request.model"] == MODEL
            assert told["gen_ai.request.max_tokens"] == told["gen_ai.usage.output_tokens"] == 8
            assert told["gen_ai.usage.input_tokens"] > 0
            assert (told["polyslo.tier"], told["polyslo.outcome"]) == ("50ms", "attained")
            assert (told["polyslo.instance"], told["polyslo.request_id"]) == ("e0", "mine")
            assert told["polyslo.rung"] in ("own", "scaled_up")
            assert 0 <= told["polyslo.queue_s"] <= told["polyslo.ttft_s"]
            assert told["polyslo.predicted_ttft_s"] > 0
            assert 0 < told["polyslo.predicted_tpot_s"] <= 0.05
            assert PROMPT not in span.to_json()
            (seen,) = sent
            assert seen[b"traceparent"] == f"00-{TRACE}-{span.context.span_id:016x}-01".encode()
            assert seen[b"tracestate"] == b"vendor=1"

    run(main)


def test_a_request_without_a_context_begins_a_trace(spans, sent):
    """And a malformed context counts as none; the engine is told the new one, once."""

    async def main():
        async with Bench() as bench:
            await bench.ask(COMPLETIONS, completion(2))
            await bench.ask(COMPLETIONS, completion(2), [(b"traceparent", b"00-zero-zero-01")])
            await bench.settle()
            found = spans.get_finished_spans()
            assert [span.parent for span in found] == [None, None]
            expected = [f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}".encode() for span in found]
            assert [headers[b"traceparent"].rpartition(b"-")[0] for headers in sent] == expected

    run(main)


def test_a_trace_that_its_client_does_not_sample_is_passed_on_unsampled(spans, sent):
    """No span is kept; the engine sees the same trace and the same flag."""

    async def main():
        async with Bench() as bench:
            await bench.ask(COMPLETIONS, completion(2), [UNSAMPLED])
            await bench.settle()
            assert spans.get_finished_spans() == ()
            _, trace_id, _, flags = sent[0][b"traceparent"].split(b"-")
            assert (trace_id, flags) == (TRACE.encode(), b"00")

    run(main)


def test_what_fails_or_is_turned_away_is_an_error(spans):
    """A request that is refused at the door has a span too; one whose client left is none's error."""

    async def main():
        async with Bench(speed=1.0) as bench:
            assert (await bench.ask(COMPLETIONS, b"{", [TRACEPARENT])).status == 400
            reply = bench.send(COMPLETIONS, completion(2000, stream=True))
            await reply.until(lambda reply: b'"text"' in reply.body)
            reply.call.abort()
            await bench.settle()
            refused, cancelled = spans.get_finished_spans()
            assert (refused.status.status_code.name, refused.attributes["error.type"]) == ("ERROR", "bad_request")
            assert f"{refused.context.trace_id:032x}" == TRACE
            assert cancelled.status.status_code.name == "UNSET"
            assert cancelled.attributes["polyslo.outcome"] == "cancelled"

    run(main)


def test_who_finds_no_place_is_in_the_clients_trace(spans):
    """The span of a request that was turned away after it was read names its operation and its reason."""

    async def main():
        async with Bench(speed=1.0, server={"max_concurrent_requests": 1, "queue_size": 0}) as bench:
            running = bench.send(COMPLETIONS, completion(2000, stream=True))
            await running.until(lambda reply: reply.body)
            assert (await bench.ask(CHAT, chat(2), [TRACEPARENT])).status == 429
            running.call.abort()
            await bench.settle()
            refused = next(span for span in spans.get_finished_spans() if span.name == "turned away")
            assert f"{refused.context.trace_id:032x}" == TRACE
            assert refused.attributes["gen_ai.operation.name"] == "chat"
            assert refused.attributes["error.type"] == "saturated"

    run(main)


class Collector(ThreadingHTTPServer):
    """An OTLP collector: keeps what it is sent."""

    daemon_threads = True

    def __init__(self):
        self.bodies, self.paths, self.threads = [], [], set()
        super().__init__(("127.0.0.1", 0), _Collecting)

    @property
    def url(self):
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Collecting(BaseHTTPRequestHandler):
    def do_POST(self):
        """Keep a batch."""
        self.server.paths.append(self.path)
        self.server.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format, *args):
        """Say nothing."""


def test_spans_reach_a_collector_by_the_end(monkeypatch):
    """By OTLP over HTTP, at the configured address, under the service's name; what is left is sent at shutdown."""
    pytest.importorskip("opentelemetry.sdk")
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    monkeypatch.setenv("OTEL_SERVICE_NAME", "my-gateway")
    collector = Collector()
    threading.Thread(target=collector.serve_forever, daemon=True).start()

    async def main():
        async with Bench(telemetry={"otlp_endpoint": collector.url}) as bench:
            for _ in range(3):
                await bench.ask(COMPLETIONS, completion(4, prompt=PROMPT, stream=True))
            await bench.settle()

    run(main)
    collector.shutdown()
    collector.server_close()
    assert set(collector.paths) == {"/v1/traces"}
    batches = [ExportTraceServiceRequest.FromString(body) for body in collector.bodies]
    resources = [resource for batch in batches for resource in batch.resource_spans]
    names = [span.name for resource in resources for scope in resource.scope_spans for span in scope.spans]
    assert names == [f"text_completion {MODEL}"] * 3
    told = {entry.key: entry.value.string_value for entry in resources[0].resource.attributes}
    assert told["service.name"] == "my-gateway"
    assert all(PROMPT.encode() not in body for body in collector.bodies)


def test_without_the_packages_the_key_is_an_error_in_one_line(monkeypatch):
    """It says what is missing and what to install."""
    monkeypatch.setattr(traces, "has_packages", lambda: False)
    with pytest.raises(ConfigError) as caught:
        open_traces(TelemetryConfig(otlp_endpoint="http://127.0.0.1:4318"), {})
    assert str(caught.value) == (
        "telemetry.otlp_endpoint: needs the OpenTelemetry SDK, which is not installed; pip install 'polyslo[otel]'"
    )


def test_without_the_packages_the_environment_is_a_warning(monkeypatch, caplog):
    """It may be set for a whole cluster, so serving goes on."""
    monkeypatch.setattr(traces, "has_packages", lambda: False)
    with caplog.at_level(logging.WARNING, logger="polyslo"):
        opened = open_traces(TelemetryConfig(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"})
    assert isinstance(opened, NoTraces)
    assert "OTEL_EXPORTER_OTLP_ENDPOINT needs the OpenTelemetry SDK" in caplog.text


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_variables_ask_for_traces_and_forbid_them(environment, expected):
    """As OpenTelemetry specifies them; what forbids goes before the configuration too."""
    assert wants_traces(TelemetryConfig(), environment) is expected
    configured = TelemetryConfig(otlp_endpoint="http://127.0.0.1:4318")
    forbidden = "OTEL_SDK_DISABLED" in environment or "OTEL_TRACES_EXPORTER" in environment
    assert wants_traces(configured, environment) is not forbidden


def test_a_gateway_without_traces_leaves_a_clients_context_alone(sent):
    """The engine sees what the client sent."""

    async def main():
        async with Bench() as bench:
            await bench.ask(COMPLETIONS, completion(2), [TRACEPARENT])
            assert sent[0][b"traceparent"] == TRACEPARENT[1]

    run(main)


def test_a_collector_that_hangs_does_not_hold_up_the_end(monkeypatch):
    """Whoever stops waits for a bounded time only."""
    pytest.importorskip("opentelemetry.sdk")
    from polyslo.gateway.observability import otel

    monkeypatch.setattr(otel, "STOP_S", 0.01)
    hangs = threading.Event()

    class Hanging:
        def get_tracer(self, *args):
            """Return nothing: nothing is traced."""

        def shutdown(self):
            """Hang."""
            hangs.wait(10.0)

    async def main():
        opened = otel.OtelTraces(Hanging())
        assert sys.getswitchinterval() == pytest.approx(otel.SWITCH_INTERVAL_S)
        await opened.stop()

    usual_s = sys.getswitchinterval()
    asyncio.run(main())
    assert sys.getswitchinterval() == usual_s
    assert not hangs.is_set()
    hangs.set()


def test_check_says_what_is_missing(monkeypatch):
    """`polyslo check` tells it beside every other mistake, before anything is started."""
    monkeypatch.setattr(traces, "has_packages", lambda: False)
    table = {
        "telemetry": {"otlp_endpoint": "http://127.0.0.1:4318"},
        "models": [{"endpoints": [{"url": "http://a:1"}]}],
    }
    mistakes = explain(parse_config(table, "gateway.toml")).mistakes
    assert [mistake for mistake in mistakes if mistake.startswith("telemetry.otlp_endpoint: needs")] == list(mistakes)
    assert len(mistakes) == 1
