"""Keeping an engine running, on virtual time with processes that follow a script."""

from __future__ import annotations

import asyncio

import pytest
from load.fakes import run_virtually

from polyslo.errors import InputError
from polyslo.fleets.keeper import READY, STARTING, STOPPED, WAITING, Keeper, KeepRule


class Process:
    """Ends with a status after some seconds, or never."""

    def __init__(self, ends_in_s=None, status=1):
        self.end = asyncio.get_running_loop().create_future()
        self.is_stopped = False
        if ends_in_s is not None:
            asyncio.get_running_loop().call_later(ends_in_s, self._end, status)

    def _end(self, status):
        if not self.end.done():
            self.end.set_result(status)

    async def ended(self):
        """See `Process`."""
        return await asyncio.shield(self.end)

    async def stop(self):
        """See `Process`."""
        self.is_stopped = True
        self._end(-15)


class Bed:
    """A keeper over processes made by `make`; notes states with their times."""

    def __init__(self, make, is_well=lambda now_s: True, **rule):
        self.processes, self.seen = [], []
        self.keeper = Keeper("engine 0", self._launch, self._is_well, lambda: "out of memory", self._note,
                             KeepRule(**rule))  # fmt: skip
        self._make, self._well = make, is_well

    async def _launch(self):
        self.processes.append(self._make(len(self.processes)))
        return self.processes[-1]

    async def _is_well(self):
        return self._well(asyncio.get_running_loop().time())

    def _note(self, keeper):
        self.seen.append((asyncio.get_running_loop().time(), keeper.state))

    def at(self, state):
        """Return when it came into a state."""
        return [at_s for at_s, seen in self.seen if seen == state]

    async def run(self, for_s):
        """Keep it for so long, then cancel."""
        task = asyncio.ensure_future(self.keeper.keep())
        await asyncio.wait({task}, timeout=for_s)
        if task.done():
            task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_restarts_wait_twice_as_long_each_time_up_to_a_bound():
    """An engine that ends two seconds after it is ready, again and again."""

    async def main():
        bed = Bed(lambda count: Process(3.0), first_delay_s=1.0, longest_delay_s=5.0, look_interval_s=1.0)
        await bed.run(60.0)
        waits = [start - end for end, start in zip(bed.at(WAITING), bed.at(STARTING)[1:], strict=False)]
        assert waits[:5] == pytest.approx([1.0, 2.0, 4.0, 5.0, 5.0])
        assert bed.keeper.reason == "ended with 1"
        assert all(process.is_stopped for process in bed.processes)

    run_virtually(main)


def test_good_service_makes_the_next_restart_a_first_one():
    """After `service_s` of being ready the delay begins anew."""

    async def main():
        lives_s = [3.0, 3.0, 100.0, 3.0]
        bed = Bed(lambda count: Process(lives_s[count % 4]), first_delay_s=1.0, service_s=60.0)
        await bed.run(125.0)
        waits = [start - end for end, start in zip(bed.at(WAITING), bed.at(STARTING)[1:], strict=False)]
        assert waits[:3] == pytest.approx([1.0, 2.0, 1.0])

    run_virtually(main)


def test_an_engine_that_falls_silent_is_restarted():
    """It answers no look for `silence_s`; its process is stopped before the next one starts."""

    async def main():
        bed = Bed(lambda count: Process(), lambda now_s: now_s < 10.0 or now_s > 60.0, silence_s=30.0)
        await bed.run(70.0)
        assert bed.keeper.num_starts == 2
        assert "did not answer for 30 s" in bed.keeper.reason
        assert bed.processes[0].is_stopped
        assert bed.seen[-1][1] == STOPPED
        assert len(bed.at(READY)) == 2

    run_virtually(main)


def test_an_engine_that_was_never_ready_is_given_up_with_its_last_words():
    """Three starts that end by themselves; the error has the status and what the engine said."""

    async def main():
        bed = Bed(lambda count: Process(0.5, status=3), lambda now_s: False)
        with pytest.raises(InputError, match="engine 0: ended with 3, in 3 starts of 3; its last words: out of memory"):
            await bed.run(600.0)

    run_virtually(main)


def test_an_engine_that_does_not_come_in_time_is_stopped():
    """It runs but answers nothing within `start_timeout_s`."""

    async def main():
        bed = Bed(lambda count: Process(), lambda now_s: False, start_timeout_s=20.0)
        with pytest.raises(InputError, match="was not ready within 20 s"):
            await bed.run(600.0)
        assert all(process.is_stopped for process in bed.processes)

    run_virtually(main)
