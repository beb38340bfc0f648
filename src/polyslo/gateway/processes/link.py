"""Messages between a gateway's processes: a stream socket between two of them that nobody else can reach.

    message  length of content u32, kind u8, number u64, content; little-endian, packed

The number says which request is meant, 0 where none is. What a kind means is in `carrier_messages`. Writing never
waits; who writes more than the other end takes is told so (`is_blocked`), and keeps to what is bounded by itself.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Protocol, cast

HEAD = struct.Struct("<IBQ")
HIGH_WATER_BYTES = 256 * 1024
SOCKET_BYTES = 512 * 1024  # of the kernel's buffer, each way

Take = Callable[[int, int, bytes], None]  # kind, number, content


class Messenger(Protocol):
    """Who takes messages to the other end."""

    is_blocked: bool  # more is on its way than the other end takes
    on_free: Callable[[], None] | None  # called when it has caught up

    def tell(self, kind: int, number: int = 0, content: bytes = b"") -> None:
        """Send a message; after the end of the link it goes nowhere."""


class Link(asyncio.Protocol):
    """One end, a `Messenger`."""

    def __init__(self, take: Take, on_lost: Callable[[], None]) -> None:
        """`take` is called for each message in order, `on_lost` once when the other end is gone."""
        self._take = take
        self._on_lost = on_lost
        self._held = bytearray()  # the beginning of a message that is not whole yet
        self._transport: asyncio.Transport | None = None
        self.is_blocked = False
        self.on_free: Callable[[], None] | None = None

    @property
    def num_unsent_bytes(self) -> int:
        """What the other end has not taken."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def tell(self, kind: int, number: int = 0, content: bytes = b"") -> None:
        """See `Messenger`."""
        if self._transport is not None:
            self._transport.write(HEAD.pack(len(content), kind, number) + content)

    def close(self) -> None:
        """Close once everything is sent."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(HIGH_WATER_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._transport = None
        self._on_lost()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self.is_blocked = True

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self.is_blocked = False
        if self.on_free is not None:
            self.on_free()

    def data_received(self, data: bytes) -> None:
        """Hand over what is whole; one message's mistake is not the others'."""
        if self._held:
            self._held += data
            data = bytes(self._held)
        at, end = 0, len(data)
        while end - at >= HEAD.size:
            length, kind, number = HEAD.unpack_from(data, at)
            until = at + HEAD.size + length
            if until > end:
                break
            try:
                self._take(kind, number, data[at + HEAD.size : until])
            except Exception as error:
                context = {"message": f"message {kind} for {number} failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
            at = until
        self._held = bytearray(data[at:])


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two ends, with room for what comes in bursts."""
    pair = socket.socketpair()
    for end in pair:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
    return pair


async def join(end: socket.socket, link: Link) -> None:
    """Let a link speak through one end of a pair."""
    await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=end)
