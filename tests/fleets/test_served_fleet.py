"""A local fleet behind its gateway: real processes that stand in for engines, and what the gateway knows of them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from polyslo.core.state import FITS, UNHEALTHY
from polyslo.fleets.engine_command import EngineSpec
from polyslo.fleets.keeper import READY, KeepRule
from polyslo.fleets.local_fleet import LocalFleet
from polyslo.fleets.pool import PoolRule
from polyslo.fleets.ports import free_ports
from polyslo.fleets.served_fleet import ServedFleet
from polyslo.gateway.config.gateway import parse_config

ENGINE = str(Path(__file__).parent / "engine.py")


class Bed:
    """A served fleet of stand-in engines."""

    def __init__(self, folder, num_engines, least):
        ports = free_ports(num_engines)
        spec = EngineSpec("command", extra=(sys.executable, "-S", ENGINE, "{port}"))
        endpoints = [{"url": f"http://127.0.0.1:{port}"} for port in ports]
        table = {
            "server": {"port": 0, "metrics_port": 0, "shutdown_grace_s": 0},
            "health": {"interval_s": 3600, "success_threshold": 1},
            "models": [{"name": "m", "endpoints": endpoints}],
        }
        self.said = []
        self.served = ServedFleet(
            parse_config(table, "test"), PoolRule(least=least, most=num_engines, linger_s=0.0), self.said.append
        )
        rule = KeepRule(look_interval_s=0.05, first_delay_s=0.05)
        self.served.fleet = LocalFleet(spec, ports, [()] * num_engines, folder, self.served.on_change, rule)

    @property
    def closed(self):
        """How each instance stands to the gateway."""
        return [instance.closed for instance in self.served._model.instances]

    async def until(self, is_so):
        """Wait for something; a hang is a failure that shows what was said."""
        for _ in range(3000):
            if is_so():
                return
            await asyncio.sleep(0.02)
        raise AssertionError(self.said)

    async def end(self, running):
        """Stop everything."""
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await self.served.stop_gateway()
        await self.served.fleet.stop_all()


def test_the_gateway_hears_of_an_engines_end_and_return_at_once(tmp_path):
    """Not by its own looks, which are an hour apart: the keeper tells it."""

    async def main():
        bed = Bed(tmp_path, 2, least=2)
        running = asyncio.ensure_future(bed.served.run())
        await bed.until(lambda: bed.served._gateway is not None and bed.closed == [FITS, FITS])
        keeper = bed.served.fleet.keepers[0]
        seen = []
        turned = bed.served.on_change

        def on_change(i, changed):
            turned(i, changed)
            seen.append((changed.state, bed.closed[0]))

        keeper._on_change = lambda changed: on_change(0, changed)
        port = bed.served.fleet.urls[0].rpartition(":")[2]
        os.kill(next(pid for pid, words in _engines() if port in words), signal.SIGKILL)
        await bed.until(lambda: (READY, FITS) in seen)
        assert ("waiting", UNHEALTHY) in seen
        assert keeper.num_starts == 2
        assert bed.closed == [FITS, FITS]
        await bed.end(running)
        assert bed.served.fleet.num_stopped == 2

    asyncio.run(main())


def test_engines_that_nobody_needs_are_stopped_down_to_the_minimum_and_the_spare(tmp_path):
    """Three may run, one must: nothing is asked of them, so one serves, and the gateway sends nothing to the others."""

    async def main():
        bed = Bed(tmp_path, 3, least=1)
        running = asyncio.ensure_future(bed.served.run())
        await bed.until(lambda: bed.served._gateway is not None)
        for i in (1, 2):
            bed.served.fleet.start(i)
        await bed.until(lambda: sum("is not needed" in line for line in bed.said) == 2)
        await bed.until(lambda: bed.served.fleet.num_stopped == 2)
        assert bed.closed.count(FITS) == 1
        await bed.end(running)

    asyncio.run(main())


def _engines():
    """Return (pid, command line) of every stand-in engine."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if ENGINE in words and not any(word.endswith("guard.py") for word in words):
            found.append((int(folder.name), " ".join(words)))
    return found
