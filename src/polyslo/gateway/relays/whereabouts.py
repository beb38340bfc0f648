"""Where a request is: at no instance, at one, or decoded by one with the KV that another has kept.

The same for who carries its bytes and for who decides about it in another process; each keeps its own, since what one
has done the other hears later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from polyslo.gateway.relays.passage import Passage


class Whereabouts:
    """Where one request is now; its passage counts how often it was sent."""

    def __init__(self, passage: Passage, clock: Callable[[], float]) -> None:
        self.instance: int | None = None
        self.kv_params: Mapping[str, Any] | None = None  # of the prefill that is over, for the engine that decodes
        self.prefilled_s = 0.0
        self._passage = passage
        self._clock = clock

    @property
    def is_prefilled(self) -> bool:
        """Whether its KV waits to be fetched, or was."""
        return self.kv_params is not None

    def go_to(self, i: int) -> None:
        """It is sent to an instance: to decode there what was prefilled, or else afresh."""
        if self.is_prefilled:
            self.instance = i
        else:
            self.begin_at(i)

    def begin_at(self, i: int) -> None:
        """It is sent to an instance afresh; a prefill before does not count."""
        self.instance, self.kv_params = i, None
        self._passage.num_tries += 1
        self._passage.sent_s = self._clock()

    def note_prefilled(self, kv_params: Mapping[str, Any]) -> None:
        """Its prefill has ended; `kv_params` say where its KV is, empty where only its carrier knows."""
        self.kv_params, self.prefilled_s = kv_params, self._clock()

    def start_over(self) -> None:
        """Forget where it was, and a prefill whose KV is lost."""
        self.instance = self.kv_params = None
