"""The connections to engines: opened by URL, closed without anybody waiting for it."""

from __future__ import annotations

import asyncio
from ssl import SSLContext

from polyslo.wire.client import Origin


class Origins:
    """Opens origins, and closes them in the background."""

    def __init__(self, connect_timeout_s: float, ssl: SSLContext | None = None) -> None:
        """`ssl` is how `https` ones are known; None: as the system knows them."""
        self._connect_timeout_s = connect_timeout_s
        self._ssl = ssl
        self._open: set[Origin] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def open(self, url: str) -> Origin:
        """Return an origin; nothing is connected yet."""
        origin = Origin(url, connect_timeout_s=self._connect_timeout_s, ssl=self._ssl)
        self._open.add(origin)
        return origin

    def close(self, origin: Origin) -> None:
        """Close an origin's connections; what is under way there fails."""
        self._open.discard(origin)
        task = asyncio.get_running_loop().create_task(origin.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def stop(self) -> None:
        """Close all, and wait until they are."""
        for origin in list(self._open):
            self.close(origin)
        await asyncio.gather(*self._closing)
