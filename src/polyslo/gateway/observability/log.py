"""One line a request, when it is over or turned away, and one when an instance changes: on the logger `polyslo`.

Fields are in `told`.
No prompts, no answers, no keys: names, times and lengths only. docs/observability.md says what each field is.
"""

from __future__ import annotations

import logging
from typing import Any

from polyslo.core.state import REASONS
from polyslo.gateway.relays.listeners import Visitor
from polyslo.gateway.relays.relay import Relay
from polyslo.gateway.requests.request import Request
from polyslo.gateway.served_model import ServedModel

MOST_ID_BYTES = 256  # of a client's own name for a request


class DoorLog:
    """The `Doorkeeper` that writes a line for each generation that was answered before it was decided about."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    def turned_away(self, visitor: Visitor, reason: str) -> None:
        """See `Doorkeeper`."""
        if self._log.isEnabledFor(logging.INFO):
            request_id = next((value for name, value in visitor.headers if name == b"x-request-id"), b"")
            told = {"reason": reason, "path": visitor.path.decode("latin-1")}
            if request_id:
                told["request_id"] = request_id[:MOST_ID_BYTES].decode("latin-1")
            self._log.info("turned away", extra={"told": told})


class RequestLog:
    """The `Listener` that writes the log."""

    def __init__(self, log: logging.Logger, model: str) -> None:
        self._log = log
        self._model = model

    def arrived(self, relay: Relay) -> None:
        """See `Listener`."""

    def decided(self, model: ServedModel, relay: Relay, kind: int, i: int) -> None:
        """See `Listener`."""

    def moved(self, model: ServedModel, i: int) -> None:
        """See `Listener`."""

    def health_changed(self, model: ServedModel, i: int) -> None:
        """See `Listener`."""
        instance = model.instances[i]
        told = {
            "model": self._model,
            "instance": instance.name,
            "state": REASONS[instance.closed],
            "news": instance.news,
        }
        level = logging.WARNING if instance.news == "unhealthy" else logging.INFO
        self._log.log(level, "instance", extra={"told": told})

    def finished(self, relay: Relay, outcome: str) -> None:
        """See `Listener`."""
        if self._log.isEnabledFor(logging.INFO):
            self._log.info("request", extra={"told": self._line(relay, outcome)})

    def _line(self, relay: Relay, outcome: str) -> dict[str, Any]:
        passage, request = relay.passage, relay.request
        line: dict[str, Any] = {
            "request_id": passage.request_id,
            **({"session": passage.session} if passage.session else {}),
            "outcome": outcome,
            "model": self._model,
            "slo_tier": passage.tier_label,
            **({} if request.is_best_effort else _slo(request)),
            "prompt_tokens": passage.prompt_tokens or request.input_tokens,
            "output_tokens": passage.tokens,
            "tries": passage.num_tries,
            "is_streamed": request.is_streamed,
            "is_relegated": passage.is_relegated,
        }
        if passage.key_name is not None:
            line["key"] = passage.key_name
        if passage.tenant is not None:
            line["tenant"] = passage.tenant
        return line | _placement(relay) | _times(relay)


def _slo(request: Request) -> dict[str, Any]:
    return {"ttft_slo_ms": round(1e3 * request.ttft_s, 2), "tpot_slo_ms": round(1e3 * request.tpot_s, 2)}


def _placement(relay: Relay) -> dict[str, Any]:
    placement = relay.passage.placement
    if placement is None:
        return {}
    line: dict[str, Any] = {
        **({} if placement.prefill_instance is None else {"prefill_instance": placement.prefill_instance}),
        "instance": placement.instance,
        "rung": placement.rung,
        "queue_ms": round(1e3 * (placement.at_s - relay.request.arrival_s), 2),
    }
    if placement.predicted_ttft_s is not None and placement.predicted_tpot_s is not None:
        line["predicted_ttft_ms"] = round(1e3 * placement.predicted_ttft_s, 2)
        line["predicted_tpot_ms"] = round(1e3 * placement.predicted_tpot_s, 2)
    return line


def _times(relay: Relay) -> dict[str, Any]:
    """Return when tokens came; of an answer that is not streamed the first one is not seen."""
    passage, request = relay.passage, relay.request
    if not passage.tokens:
        return {}
    line = {"duration_ms": round(1e3 * (passage.last_token_s - request.arrival_s), 2)}
    if request.is_streamed:
        line["ttft_ms"] = round(1e3 * (passage.first_token_s - request.arrival_s), 2)
        if passage.tokens > 1:
            span_s = passage.last_token_s - passage.first_token_s
            line["tpot_ms"] = round(1e3 * span_s / (passage.tokens - 1), 3)
    return line
