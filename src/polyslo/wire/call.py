"""One request to an origin, and whom its response goes to.

Exactly one of `on_end` and `on_failure` ends a call; nothing is called after it, nor after `Call.abort`, nor from
inside `Origin.send`. What a sink raises is reported to the event loop and fails the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

# `name`: nobody knows the host's, or who would know does not answer. `removed` is what nobody on the wire says: who has
# sent the request has given its origin up.
FailureKind = Literal["connect", "name", "timeout", "reset", "malformed", "removed"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a response did not come, or not whole."""

    kind: FailureKind
    detail: str
    started: bool  # whether its head had come


class Sink(Protocol):
    """Takes a response as it comes."""

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Take the head; names are lower-cased, interim (1xx) responses were skipped."""

    def on_data(self, data: bytes) -> None:
        """Take a piece of the body, its framing removed."""

    def on_end(self) -> None:
        """Take note that the response is whole."""

    def on_failure(self, failure: Failure) -> None:
        """Take note that it never will be."""


class Borrower(Protocol):
    """Whoever reads a response in its connection's place for a while."""

    @property
    def heard_s(self) -> float:
        """When it last read something, by the event loop's clock."""

    def stop(self) -> None:
        """Read no more; nothing that was read is given back."""


class Bearer(Protocol):
    """The connection that carries a call."""

    def drop(self) -> None:
        """Close at once and forget the call."""

    def set_reading(self, reads: bool) -> None:
        """Read on, or leave the bytes to the peer's window."""

    def lend(self, borrower: Borrower) -> int | None:
        """See `Call.lend`."""

    def take_back(self, data: bytes) -> None:
        """See `Call.take_back`."""


class Call:
    """A request under way."""

    __slots__ = (
        "bearer", "dialling", "head_timeout_s", "idle_timeout_s", "is_head", "is_over", "is_paused", "on_chunk",
        "request", "sink",
    )  # fmt: skip

    def __init__(
        self, sink: Sink, request: tuple[bytes, bytes], is_head: bool, head_timeout_s: float, idle_timeout_s: float
    ) -> None:
        self.sink = sink
        # Once it is set, takes a piece that came as a chunk of its own in the sink's place: payload, and with framing.
        self.on_chunk: Callable[[bytes, bytes], None] | None = None
        self.request = request  # head and body, kept for a second connection
        self.is_head = is_head
        self.head_timeout_s = head_timeout_s
        self.idle_timeout_s = idle_timeout_s
        self.is_over = False
        self.is_paused = False
        self.bearer: Bearer | None = None
        self.dialling: asyncio.Task[None] | None = None

    def abort(self) -> None:
        """Close the connection at once; the sink hears nothing more."""
        if self.is_over:
            return
        self.is_over = True
        if self.bearer is not None:
            self.bearer.drop()
        elif self.dialling is not None:
            self.dialling.cancel()

    def pause(self) -> None:
        """Stop reading; what was read already may still come. Time does not count meanwhile."""
        self._set_paused(True)

    def resume(self) -> None:
        """Read on."""
        self._set_paused(False)

    def lend(self, borrower: Borrower) -> int | None:
        """Have another read the response; return the socket, or None where only the connection can read it just now.

        That is so before its body, amid a chunk, while it is paused, and always where it is encrypted.
        """
        return None if self.is_over or self.is_paused or self.bearer is None else self.bearer.lend(borrower)

    def take_back(self, data: bytes) -> None:
        """Read again, from `data` on, which the borrower has read and could do nothing with; for borrowers."""
        if self.bearer is not None:
            self.bearer.take_back(data)

    def break_off(self, failure: Failure) -> None:
        """Close the connection and end with a failure; for borrowers."""
        bearer, self.bearer = self.bearer, None
        if bearer is not None:
            bearer.drop()
        self.fail(failure)

    def fail(self, failure: Failure) -> None:
        """End it with a failure, once; for connections."""
        if self.is_over:
            return
        self.is_over = True
        try:
            self.sink.on_failure(failure)
        except Exception as error:
            report(self.sink, error)

    def end(self) -> None:
        """End it well, once; for connections."""
        if self.is_over:
            return
        self.is_over = True
        try:
            self.sink.on_end()
        except Exception as error:
            report(self.sink, error)

    def _set_paused(self, is_paused: bool) -> None:
        if self.is_over or self.is_paused == is_paused:
            return
        self.is_paused = is_paused
        if self.bearer is not None:
            self.bearer.set_reading(not is_paused)


def report(sink: Sink, error: Exception) -> None:
    """Tell the event loop of a sink's mistake."""
    asyncio.get_running_loop().call_exception_handler({"message": f"sink {sink!r} failed", "exception": error})
