"""A client's trace context: the headers by which W3C's Trace Context continues a trace. Source: its recommendation."""

from __future__ import annotations

from collections.abc import Mapping

from polyslo.wire.fields import Headers

NAMES = frozenset({b"traceparent", b"tracestate"})


def trace_context(headers: Headers) -> dict[str, str]:
    """Return the context in a request's headers, by name; of one that is given twice the first."""
    context: dict[str, str] = {}
    for name, value in headers:
        if name in NAMES:
            context.setdefault(name.decode(), value.decode("latin-1"))
    return context


def context_headers(context: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return a context as headers."""
    return [(name.encode(), value.encode("latin-1")) for name, value in context.items()]


def with_context(headers: Headers, context: Headers) -> list[tuple[bytes, bytes]]:
    """Return a request's headers with another context than its client's."""
    return [*(header for header in headers if header[0] not in NAMES), *context]
