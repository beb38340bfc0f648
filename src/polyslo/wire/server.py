"""Listen for requests and hand each, once whole, to a handler.

Ours, on asyncio's transports and callbacks: a piece of a response costs one call and one write, no task, no future
and no queue. Reading requests is `RequestReader`, the turns and times of a connection are `ClientConnection`, what
the handler sees is `Exchange`.
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module

from polyslo.wire.connection import ClientConnection
from polyslo.wire.exchange import Exchange, Handler
from polyslo.wire.fields import end_to_end
from polyslo.wire.limits import Limits

__all__ = ["Exchange", "Handler", "Limits", "Listener", "end_to_end", "listen"]

_BACKLOG = 2048  # connections that the kernel holds until we accept them


async def listen(
    handler: Handler,
    host: str,
    port: int,
    *,
    limits: Limits | None = None,
    ssl: ssl_module.SSLContext | None = None,
    reuse_port: bool = False,
) -> Listener:
    """Accept connections on `host` and `port` (0: any free one) until the listener is closed; raises `OSError`."""
    loop = asyncio.get_running_loop()
    listener = Listener(handler, limits or Limits())
    handshake_timeout_s = listener.limits.head_timeout_s if ssl else None
    listener.server = await loop.create_server(
        lambda: ClientConnection(listener),
        host,
        port,
        ssl=ssl,
        reuse_port=reuse_port or None,
        backlog=_BACKLOG,
        ssl_handshake_timeout=handshake_timeout_s,
    )
    listener.port = int(listener.server.sockets[0].getsockname()[1])
    return listener


class Listener:
    """An open port and the connections that came through it."""

    server: asyncio.Server
    port: int  # that is listened on; known after closing too

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self.handler = handler
        self.limits = limits
        self.is_draining = False
        self._connections: set[ClientConnection] = set()
        self._emptied: asyncio.Event | None = None

    @property
    def num_connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

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
        return len(self._connections) <= self.limits.max_connections

    def forget(self, connection: ClientConnection) -> None:
        """Count a connection out."""
        self._connections.discard(connection)
        if self._emptied is not None and not self._connections:
            self._emptied.set()
