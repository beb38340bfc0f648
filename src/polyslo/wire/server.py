"""Listen for requests and hand each, once whole, to a handler.

Ours, on asyncio's transports and callbacks: a piece of a response costs one call and one write, no task, no future
and no queue. Reading requests is `RequestReader`, the turns and times of a connection are `ClientConnection`, what
the handler sees is `Exchange`.
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from socket import socket
from typing import Protocol

from polyslo.wire.connection import ClientConnection
from polyslo.wire.exchange import Exchange, Handler
from polyslo.wire.fields import end_to_end
from polyslo.wire.limits import Limits

__all__ = ["Census", "Exchange", "Handler", "Limits", "Listener", "end_to_end", "listen", "listen_on"]

_BACKLOG = 2048  # connections that the kernel holds until we accept them


async def listen(
    handler: Handler,
    host: str,
    port: int,
    *,
    limits: Limits | None = None,
    ssl: ssl_module.SSLContext | None = None,
    reuse_port: bool = False,
    census: Census | None = None,
) -> Listener:
    """Accept connections on `host` and `port` (0: any free one) until the listener is closed; raises `OSError`."""
    listener = Listener(handler, limits or Limits(), census)
    server = await asyncio.get_running_loop().create_server(
        lambda: ClientConnection(listener),
        host,
        port,
        ssl=ssl,
        reuse_port=reuse_port or None,
        backlog=_BACKLOG,
        ssl_handshake_timeout=listener.limits.head_timeout_s if ssl else None,
    )
    listener.began(server)
    return listener


async def listen_on(
    handler: Handler,
    bound: socket,
    *,
    limits: Limits | None = None,
    ssl: ssl_module.SSLContext | None = None,
    census: Census | None = None,
) -> Listener:
    """Accept connections on a socket that is bound already; see `listen`."""
    listener = Listener(handler, limits or Limits(), census)
    server = await asyncio.get_running_loop().create_server(
        lambda: ClientConnection(listener),
        sock=bound,
        ssl=ssl,
        backlog=_BACKLOG,
        ssl_handshake_timeout=listener.limits.head_timeout_s if ssl else None,
    )
    listener.began(server)
    return listener


class Census(Protocol):
    """Counts the connections of several listeners."""

    def entered(self) -> bool:
        """Count one in; false when there are too many."""

    def left(self) -> None:
        """Count one out."""

    def refused(self) -> None:
        """Count a request that was no HTTP, too large or too slow."""


class Listener:
    """An open port and the connections that came through it."""

    server: asyncio.Server
    port: int  # that is listened on; known after closing too

    def __init__(self, handler: Handler, limits: Limits, census: Census | None = None) -> None:
        self.handler = handler
        self.limits = limits
        self._census = census
        self.is_draining = False
        self._connections: set[ClientConnection] = set()
        self._emptied: asyncio.Event | None = None

    @property
    def num_connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    def began(self, server: asyncio.Server) -> None:
        """Note what accepts."""
        self.server = server
        self.port = int(server.sockets[0].getsockname()[1])

    async def close(self, grace_s: float) -> None:
        """Stop accepting, let what is under way end within `grace_s`, then cut what is left."""
        self.server.close()
        self.is_draining = True
        self._emptied = asyncio.Event()
        for connection in list(self._connections):
            connection.drain()
        if self._connections:
            try:
                async with asyncio.timeout(grace_s):
                    await self._emptied.wait()
            except TimeoutError:
                for connection in list(self._connections):
                    connection.cut()
                await self._emptied.wait()
        await self.server.wait_closed()

    def admit(self, connection: ClientConnection) -> bool:
        """Count a connection in; false when there are too many."""
        self._connections.add(connection)
        if self._census is not None:
            return self._census.entered()
        return len(self._connections) <= self.limits.max_connections

    def forget(self, connection: ClientConnection) -> None:
        """Count a connection out."""
        if connection in self._connections:
            self._connections.remove(connection)
            if self._census is not None:
                self._census.left()
        if self._emptied is not None and not self._connections:
            self._emptied.set()

    def refused(self) -> None:
        """Count a request that was no HTTP, too large or too slow."""
        if self._census is not None:
            self._census.refused()
