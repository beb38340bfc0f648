"""Answering a scrape in pieces: with hundreds of instances writing all metrics at once would hold every stream up.

After each piece, one metric with its samples, the event loop gets its turn. A client that reads slowly is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from polyslo.wire.fields import Headers
from polyslo.wire.server import Exchange


class Scrape:
    """One scrape: sends `pieces` as they come."""

    def __init__(self, exchange: Exchange, headers: Headers, pieces: Iterator[bytes]) -> None:
        self._exchange = exchange
        self._pieces = pieces
        self._handle: asyncio.Handle | None = None
        exchange.on_gone = self._stop
        exchange.on_blocked = self._on_blocked
        exchange.start(200, headers)
        self._go_on()

    def _go_on(self) -> None:
        self._handle = asyncio.get_running_loop().call_soon(self._next)

    def _stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _on_blocked(self, is_blocked: bool) -> None:
        self._stop()
        if not is_blocked:
            self._go_on()

    def _next(self) -> None:
        self._handle = None
        piece = next(self._pieces, None)
        if piece is None:
            self._exchange.end()
            return
        self._go_on()  # before writing, which may find that the client is slow or has left
        self._exchange.write(piece)
