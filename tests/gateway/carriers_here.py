"""Carriers without their processes: each runs in the test's own event loop, over the same sockets."""

from __future__ import annotations

import asyncio
import os
import socket

from polyslo.gateway.processes import carrier_process
from polyslo.gateway.processes.carrier import Carrier
from polyslo.gateway.processes.tally import RowOfTally, Tally


class CarrierHere:
    """What stands for `asyncio.subprocess.Process`."""

    pid = -1

    def __init__(self, files, row, num_rows):
        link, bound, tally = map(os.dup, files)
        self._end = socket.socket(fileno=link)
        carrier = Carrier(socket.socket(fileno=bound), RowOfTally(Tally(num_rows, tally), row, 0))
        self._carrying = asyncio.create_task(self._carry(carrier))

    async def _carry(self, carrier):
        try:
            await carrier.run(self._end)
        finally:  # what the end of a process does
            await carrier._listener.close(0.0)
            for model in carrier._models.values():
                for instance in model.destinations:
                    await instance.origin.close()

    @property
    def returncode(self):
        """The exit status."""
        return 0 if self._carrying.done() else None

    async def wait(self):
        """Wait for its end."""
        await asyncio.wait((self._carrying,))
        return 0

    def kill(self):
        """End it."""
        self._carrying.cancel()


def install(monkeypatch):
    """Let gateways begin carriers here."""

    async def begin(python, m, module, *numbers, stdin, pass_fds):
        assert m == "-m"
        assert module == carrier_process.MODULE
        *files, row, num_rows = map(int, numbers)
        return CarrierHere(files, row, num_rows)

    monkeypatch.setattr(carrier_process.asyncio, "create_subprocess_exec", begin)
