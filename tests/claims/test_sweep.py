"""Units of work are done once, kept, and go on where a sweep was stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from claims.fakes import MACHINE
from polyslo.claims.cases import Case
from polyslo.claims.store import Store
from polyslo.claims.sweep import LocalProcesses, Sweep
from polyslo.claims.work import Found, Inspection, Misses, Outcome, Search, Trial, do
from polyslo.errors import ConfigError

CASE = Case("uniform-512-512", "co", num_instances=2)
# Two processes at work, told by their numbers, until somebody kills the one that started them.
KILLED = """
import multiprocessing
import time

from polyslo.claims.sweep import LocalProcesses

if __name__ == "__main__":
    workers = LocalProcesses(2)
    futures = [workers._pool.submit(time.sleep, 600) for _ in range(2)]
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""
SEARCHES = [Search(CASE, "minimal", seed, 10.0) for seed in range(3)]


class Recorder:
    """Workers that note what they were asked, and may stop half-way."""

    def __init__(self, stop_after: int = 100):
        self.asked = []
        self.stop_after = stop_after

    def answers(self, units):
        """See `Workers`."""
        for unit in units:
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(unit)
            yield unit, Found((float(unit.seed), 1.5), ((2.0, 0.5),))

    def machines(self):
        """See `Workers`."""
        return [MACHINE]

    def close(self):
        """See `Workers`."""


def test_answers_come_in_the_order_of_the_units(tmp_path):
    """Equal units are done once, and every unit has its own answer."""
    workers = Recorder()
    sweep = Sweep(Store(tmp_path), workers)
    answers = sweep.do("stage", [SEARCHES[2], SEARCHES[0], SEARCHES[2]])
    assert [answer.rates_rps[0] for answer in answers] == [2.0, 0.0, 2.0]
    assert workers.asked == [SEARCHES[2], SEARCHES[0]]


def test_a_stopped_sweep_goes_on(tmp_path):
    """What was found before an interrupt, even in mid-write, is not done again."""
    with pytest.raises(KeyboardInterrupt):
        Sweep(Store(tmp_path), Recorder(stop_after=2)).do("stage", SEARCHES)
    (file,) = tmp_path.iterdir()
    with file.open("a") as half:
        half.write('{"unit": "Sea')
    workers = Recorder()
    told = []
    sweep = Sweep(Store(tmp_path), workers, lambda *what: told.append(what))
    answers = sweep.do("stage", SEARCHES)
    assert workers.asked == [SEARCHES[2]]
    assert [answer.rates_rps[0] for answer in answers] == [0.0, 1.0, 2.0]
    assert told == [("stage", 2, 3), ("stage", 3, 3)]


def test_all_kinds_of_answers_survive_the_disk(tmp_path):
    """A search's, a trial's and an inspection's answers are read back equal."""
    trial, inspection = Trial(CASE, "minimal", 0, 10.0, 5.0), Inspection(CASE, 0, 10.0, 5.0)
    outcome = Outcome(0.5, 1.25, (1.0, 0.25, 0.0), (3, 4), (2, 1), 0)
    misses = Misses((3, 4), (2, 1), 2, 1, 3, 2, 4, 1, 800.0, 9000.0, 1.5, 2.0, 0.75)
    store = Store(tmp_path)
    store.put(trial, outcome)
    store.put(inspection, misses)
    store.put(SEARCHES[0], Found((1.0, 2.0), ((1.0, 0.5), (2.0, 0.25))))
    again = Store(tmp_path)
    assert again.get(trial) == outcome
    assert again.get(inspection) == misses
    assert again.get(SEARCHES[0]) == Found((1.0, 2.0), ((1.0, 0.5), (2.0, 0.25)))
    assert again.get(SEARCHES[1]) is None


def test_the_machines_of_all_sittings_are_kept(tmp_path):
    """A sweep that goes on elsewhere names both machines, each once; one that only reads adds none."""
    first, second = Recorder(), Recorder()
    second.machines = lambda: [replace(MACHINE, cpu=None, memory_gib=None), MACHINE]
    for workers, units in ((first, SEARCHES[:1]), (second, SEARCHES), (first, SEARCHES)):
        sweep = Sweep(Store(tmp_path), workers)
        sweep.do("stage", units)
    sweep = Sweep(Store(tmp_path), Recorder())
    assert sweep.machines == (MACHINE, replace(MACHINE, cpu=None, memory_gib=None))
    reader = Recorder()
    reader.machines = lambda: [replace(MACHINE, num_cores=64)]
    again = Sweep(Store(tmp_path), reader)
    assert again.do("stage", SEARCHES) == sweep.do("stage", SEARCHES)
    assert again.machines == sweep.machines


@pytest.mark.slow
def test_processes_answer_as_this_one_does(tmp_path):
    """A unit that another process does gives the same answer, to the last bit."""
    units = [Trial(CASE, policy, 0, 10.0, 12.0) for policy in ("polyserve", "minimal")]
    workers = LocalProcesses(2)
    try:
        assert Sweep(Store(tmp_path), workers).do("stage", units) == [do(unit) for unit in units]
    finally:
        workers.close()


def test_processes_end_with_the_one_that_started_them(tmp_path):
    """Killed, it can't tell them: they see it themselves, and none is left behind."""
    script = tmp_path / "sweep.py"
    script.write_text(KILLED)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(number) for number in parent.stdout.readline().split()]
        parent.kill()
    assert len(workers) == 2
    until_s = time.monotonic() + 30
    while left := list(filter(_is_running, workers)):
        if time.monotonic() > until_s:
            for worker in left:
                os.kill(worker, signal.SIGKILL)
            pytest.fail("they run on")
        time.sleep(0.05)


def _is_running(number):
    try:
        return " Z " not in Path(f"/proc/{number}/stat").read_text()
    except FileNotFoundError:
        return False


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path):
    """A file where the folder should be is one line that names the option."""
    (tmp_path / "state").write_text("")
    with pytest.raises(ConfigError, match="--state"):
        Store(tmp_path / "state")
