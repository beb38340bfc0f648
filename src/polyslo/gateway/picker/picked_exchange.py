"""A request whose bytes another gateway carries, as the front door sees it.

What is answered here at once is kept whole, to be sent as one message. Else the answer is a `Pick`, and what the picked
instance answers is told to the pick's `Observer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from polyslo.gateway.relays.passage import Header
from polyslo.gateway.requests.openai_errors import Answer
from polyslo.wire.client import Origin, Sink
from polyslo.wire.fields import Headers


class Observer(Sink, Protocol):
    """Who hears what a picked instance answers; nothing that it does changes the bytes."""

    @property
    def told(self) -> Sequence[Header]:
        """Headers of ours that the response gets."""


@dataclass(frozen=True, slots=True)
class Pick:
    """Where a request goes, the headers and the body that its engine sees, and who follows it."""

    origin: Origin
    headers: Headers
    body: bytes
    observer: Observer


class PickedExchange:
    """The `Caller` of a request. `interrupt` is called when it ends while it is carried.

    `on_gone` is called once if it is over before its response has ended.
    """

    def __init__(
        self, method: bytes, target: bytes, headers: Headers, body: bytes, interrupt: Callable[[], object]
    ) -> None:
        self.method = method
        self.path = target.partition(b"?")[0]
        self.headers = headers
        self.body = body
        self.on_gone: Callable[[], None] | None = None
        self.decided = asyncio.Event()  # there is an answer or a pick
        self.answer: Answer | None = None
        self.pick: Pick | None = None
        self.is_carried = False  # it is on its way
        self.has_begun = False  # its instance's answer has: nothing else can be answered any more
        self.is_interrupted = False
        self._is_over = False
        self._interrupt = interrupt

    def header(self, name: bytes) -> bytes | None:
        """See `Caller`."""
        return next((value for key, value in self.headers if key == name), None)

    def send_to(self, pick: Pick) -> None:
        """Have it carried to an instance."""
        self.pick = pick
        self.decided.set()

    def respond(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """See `Client`; also in place of an instance whose answer has not begun."""
        if not self._is_over:
            self.answer = Answer(status, tuple(headers), body)
            self.decided.set()
            self._end_here()

    def abort(self) -> None:
        """Break it off, so that its client sees an error and not a short body."""
        if not self._is_over:
            self._end_here()

    def end(self) -> None:
        """Note that its response is whole."""
        self._is_over = True
        self.on_gone = None

    def leave(self) -> None:
        """Note that whoever carries it has let go of it: its client has left, or its instance failed."""
        if not self._is_over:
            on_gone = self.on_gone
            self.end()
            if on_gone is not None:
                on_gone()

    def _end_here(self) -> None:
        self.end()
        if self.is_carried:
            self.is_interrupted = True
            self._interrupt()
