"""A carrier as the decider's process has it: a child, the link to it, and a desk for its requests."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable

from polyslo.errors import ConfigError
from polyslo.gateway.processes.desk import Desk
from polyslo.gateway.processes.link import Link, Messenger, join, socket_pair
from polyslo.gateway.processes.messages import Said, Told
from polyslo.gateway.processes.tally import Tally

MODULE = "polyslo.gateway.processes.carrier"


class CarrierProcess:
    """One life of a carrier."""

    desk: Desk
    process: asyncio.subprocess.Process

    def __init__(self, row: int, bound: socket.socket, tally: Tally, make_desk: Callable[[Messenger], Desk]) -> None:
        self.row = row
        self._bound = bound
        self._tally = tally
        self.link = Link(self._take, self._lose)
        self.desk = make_desk(self.link)
        self.num_lost = 0  # requests that ended with it
        self._is_ready = asyncio.Event()

    async def start(self, settings: bytes) -> None:
        """Start the process; it listens soon."""
        ours, theirs = socket_pair()
        files = (theirs.fileno(), self._bound.fileno(), self._tally.fd)
        numbers = (*files, self.row, len(self._tally.rows))
        with theirs:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", MODULE, *map(str, numbers), stdin=asyncio.subprocess.DEVNULL, pass_fds=files
            )
        await join(ours, self.link)
        self.link.tell(Told.SETTINGS, 0, settings)
        self.desk.tell_models()

    async def until_ready(self) -> None:
        """Wait until it listens; raises `ConfigError` where it never will."""
        ready, ended = asyncio.create_task(self._is_ready.wait()), asyncio.create_task(self.process.wait())
        _, pending = await asyncio.wait((ready, ended), return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if not self._is_ready.is_set():
            raise ConfigError(
                f"server.processes: a carrier process ended with status {self.process.returncode} before it listened; "
                "see what it said, or set server.processes to 1"
            )

    async def until_ended(self) -> int:
        """Wait for the process's end; return its status."""
        status = await self.process.wait()
        self._lose()
        self._tally.lose(self.row)
        return status

    def kill(self) -> None:
        """End it at once."""
        if self.process.returncode is None:
            self.process.kill()

    def _take(self, kind: int, number: int, content: bytes) -> None:
        if kind == Said.READY:
            self._is_ready.set()
        else:
            self.desk.take(kind, number, content)

    def _lose(self) -> None:
        """Its link has ended: it is over, whatever it still does."""
        self.num_lost += self.desk.lose_all()
        if not self.desk.is_draining:
            self.kill()
