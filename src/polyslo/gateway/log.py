"""One structured line a request, when it is over: JSON on the logger `polyslo`, no prompts, no keys."""

from __future__ import annotations

import logging
from typing import Any

import orjson

from polyslo.core.state import REASONS
from polyslo.gateway.relay import Relay
from polyslo.gateway.served_model import ServedModel


class RequestLog:
    """The `Listener` that writes the log."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    def arrived(self, relay: Relay) -> None:
        """See `Listener`."""

    def decided(self, model: ServedModel, relay: Relay, kind: int, i: int) -> None:
        """See `Listener`."""

    def moved(self, model: ServedModel, i: int) -> None:
        """See `Listener`."""

    def health_changed(self, model: ServedModel, i: int) -> None:
        """See `Listener`."""
        instance = model.instances[i]
        line = {"instance": instance.name, "state": REASONS[instance.closed], "news": instance.news}
        level = logging.WARNING if instance.news == "unhealthy" else logging.INFO
        self._log.log(level, "%s", orjson.dumps(line).decode())

    def finished(self, relay: Relay, outcome: str) -> None:
        """See `Listener`."""
        if not self._log.isEnabledFor(logging.INFO):
            return
        passage, request = relay.passage, relay.request
        line: dict[str, Any] = {
            "request_id": passage.request_id,
            **({"session": passage.session} if passage.session else {}),
            "outcome": outcome,
            "slo_tier": passage.tier_label,
            "instance": relay.instance,
            "prompt_tokens": passage.prompt_tokens or request.input_tokens,
            "output_tokens": passage.tokens,
            "tries": passage.num_tries,
        }
        if passage.tokens:
            line["ttft_ms"] = round(1e3 * (passage.first_token_s - request.arrival_s), 2)
            line["duration_ms"] = round(1e3 * (passage.last_token_s - request.arrival_s), 2)
        self._log.info("%s", orjson.dumps(line).decode())
