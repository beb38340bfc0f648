"""Whether requests are traced: where the configuration or the standard environment variables ask for it.

The OpenTelemetry packages are an extra; only `otel` imports them, and only when there is something to trace.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

from polyslo.errors import ConfigError
from polyslo.gateway.config.server import TelemetryConfig
from polyslo.gateway.relays.listeners import Doorkeeper, Listener

log = logging.getLogger("polyslo")

PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")  # of the OpenTelemetry specification
MISSING = "needs the OpenTelemetry SDK, which is not installed; pip install 'polyslo[otel]'"


class Traces(Protocol):
    """Who traces requests."""

    @property
    def doorkeepers(self) -> Sequence[Doorkeeper]:
        """Who must hear of requests that were turned away."""

    def listeners(self, model: str) -> Sequence[Listener]:
        """Return who must hear of a model's requests."""

    async def stop(self) -> None:
        """Send what is left, within seconds."""


class NoTraces:
    """Traces nothing."""

    doorkeepers: Sequence[Doorkeeper] = ()

    def listeners(self, model: str) -> Sequence[Listener]:
        """See `Traces`."""
        return ()

    async def stop(self) -> None:
        """See `Traces`."""


def open_traces(config: TelemetryConfig, environment: Mapping[str, str] = os.environ) -> Traces:
    """Return who traces. Raises `ConfigError` where the configuration wants traces and can't have them.

    Environment variables may be set for a whole cluster, so where only these want traces it is a warning.
    """
    if not wants_traces(config, environment):
        return NoTraces()
    for mistake in untraceable(config):
        raise ConfigError(mistake)
    why_not = _why_not()
    if why_not is not None:
        log.warning("no traces: %s %s", next(name for name in ENDPOINTS if environment.get(name)), why_not)
        return NoTraces()
    traces: Traces = import_module("polyslo.gateway.observability.otel").open_otlp(config.otlp_endpoint)
    return traces


def untraceable(config: TelemetryConfig) -> list[str]:
    """Return the complaint that the configuration wants traces and can't have them, if so."""
    why_not = _why_not()
    return [] if config.otlp_endpoint is None or why_not is None else [f"telemetry.otlp_endpoint: {why_not}"]


def _why_not() -> str | None:
    return None if has_packages() else MISSING


def wants_traces(config: TelemetryConfig, environment: Mapping[str, str]) -> bool:
    """Tell whether anything asks for traces and nothing forbids them."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none":
        return False
    return config.otlp_endpoint is not None or any(environment.get(name) for name in ENDPOINTS)


def has_packages() -> bool:
    """Tell whether the extra is installed."""
    try:
        return all(find_spec(name) is not None for name in PACKAGES)
    except ModuleNotFoundError:  # a parent of one
        return False
