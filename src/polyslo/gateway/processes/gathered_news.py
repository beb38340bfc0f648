"""Tokens that were seen, gathered for a moment and told together; while nobody takes them they add up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyslo.gateway.processes.link import Messenger
from polyslo.gateway.processes.messages import Said, news
from polyslo.gateway.surroundings import Loop

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

GATHER_S = 0.001  # an engine writes a step's tokens one after the other


class GatheredNews:
    """News of tokens on its way; one number a request is all that is ever held."""

    def __init__(self, messenger: Messenger, loop: Loop) -> None:
        self._messenger = messenger
        self._loop = loop
        self._tokens: dict[int, int] = {}
        self._seen_s = 0.0  # when the oldest of it was seen
        self._is_due = False
        messenger.on_free = self.flush

    def add(self, number: int, tokens: int, now_s: float) -> None:
        """A stream showed tokens; 0 tells that its response has begun."""
        if not self._tokens:
            self._seen_s = now_s
        self._tokens[number] = self._tokens.get(number, 0) + tokens
        if not self._is_due:
            self._is_due = True
            self._loop.call_later(GATHER_S, self._look)

    def add_many(self, rows: npt.NDArray[np.int64], now_s: float) -> None:
        """Streams showed tokens: rows of a number and how many."""
        for number, tokens in rows.tolist():
            self.add(number, tokens, now_s)

    def flush(self) -> None:
        """Tell it now: what is told next comes after it."""
        if self._tokens:
            tokens, self._tokens = self._tokens, {}
            self._messenger.tell(Said.NEWS, 0, news(self._seen_s, tokens))

    def _look(self) -> None:
        self._is_due = False
        if not self._messenger.is_blocked:
            self.flush()
