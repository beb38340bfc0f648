"""A journal on its way to the disk: in time, in bounds, and never in the way of serving."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from polyslo.core.state import new_fleet
from polyslo.gateway.decider import Decider
from polyslo.gateway.journal import writer as journal_writer
from polyslo.gateway.journal.files import JournalFiles
from polyslo.gateway.journal.head import JournalHead
from polyslo.gateway.journal.journal import Journal
from polyslo.gateway.journal.reader import open_journals
from polyslo.gateway.journal.records import Arrival
from polyslo.gateway.journal.replay import Replayed, replay
from polyslo.gateway.journal.writer import JournalWriter
from polyslo.gateway.requests.request import Request
from polyslo.policies.table import MINIMAL
from polyslo.profiles.library import DEFAULT_PROFILE, load_profile

NUM_RECORDS = 64
RECORDS_EACH = 3  # of a request that is taken in and lost: entry, arrival, loss


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn often, and try again soon."""
    monkeypatch.setattr(journal_writer, "FLUSH_S", 0.001)
    monkeypatch.setattr(journal_writer, "RETRY_S", 0.0)


class Gateway:
    """A decider that somebody asks, and its journal."""

    def __init__(self, path: Path, *, max_bytes: int = 1 << 30, keep: int = 4) -> None:
        profile = load_profile(DEFAULT_PROFILE).profile
        fleet = new_fleet(profile, num_instances=2, tpots_s=[0.05], num_requests=NUM_RECORDS)
        self.decider = Decider(fleet, MINIMAL, lambda kind, r, i: None)
        self.journal = Journal()
        self.files = JournalFiles(path, keep)
        head = JournalHead(policy="minimal", fleet={"num_instances": 2}, num_records=NUM_RECORDS)
        self.writer = JournalWriter(self.journal, self.decider, head, self.files, max_bytes=max_bytes)
        self._now_s = 0.0

    def serve(self) -> None:
        """Take a request in and lose it."""
        self._now_s += 1.0
        r = self.decider.enter()
        assert r is not None
        self.decider.arrive(r, Request(self._now_s, 1.0, 0.05, 0, 100, 10, True), self._now_s)
        self.decider.lose(r, self._now_s)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Go on serving until something is so."""
        while not condition():
            self.serve()
            await asyncio.sleep(0.001)


def arrivals(paths: list[Path]) -> list[float]:
    """Replay files, and return when requests arrived."""
    found = []
    for journal in open_journals(paths):
        replayed = Replayed()
        replay(journal, replayed)
        assert replayed.difference is None
        found += [record.arrival_s for record in journal.records() if isinstance(record, Arrival)]
    return found


def test_what_was_recorded_is_on_the_disk_after_stopping(tmp_path: Path) -> None:
    """The last moment's records too; afterwards nothing is recorded."""

    async def run() -> Gateway:
        gateway = Gateway(tmp_path / "journal")
        gateway.writer.start()
        for _ in range(20):
            gateway.serve()
            await asyncio.sleep(0)
        await gateway.writer.stop()
        gateway.serve()
        return gateway

    gateway = asyncio.run(run())
    assert arrivals([tmp_path / "journal"]) == [float(k) for k in range(1, 21)]
    assert (gateway.journal.num_recorded, gateway.journal.num_lost) == (20 * RECORDS_EACH, 0)


def test_a_full_file_makes_room_for_a_new_one(tmp_path: Path) -> None:
    """No request is lost between two files; of many files those that were to be kept are there."""

    async def run() -> None:
        gateway = Gateway(tmp_path / "journal", max_bytes=4096, keep=3)
        gateway.writer.start()
        await gateway.until(lambda: gateway.writer.num_begun >= 6)
        await gateway.writer.stop()

    asyncio.run(run())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", "journal.1", "journal.2"]
    found = arrivals(list(tmp_path.iterdir()))
    assert found == [found[0] + k for k in range(len(found))]
    assert all(journal.notices == [] for journal in open_journals(list(tmp_path.iterdir())))


def test_a_journal_of_an_earlier_process_is_kept(tmp_path: Path) -> None:
    """A file is begun, never continued; that something is missing in between is told."""

    async def run() -> None:
        gateway = Gateway(tmp_path / "journal")
        gateway.writer.start()
        gateway.serve()
        await gateway.writer.stop()

    asyncio.run(run())
    asyncio.run(run())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", "journal.1"]
    _, later = open_journals(list(tmp_path.iterdir()))
    assert later.notices == ["does not follow journal.1 at once: something between is missing"]


def test_a_full_disk_does_not_stop_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, what is lost is counted, the good part stays, and a new file begins when there is room again."""
    is_full = False
    write = JournalFiles.append

    def append(files: JournalFiles, block: bytes) -> None:
        if is_full:
            write(files, block[: len(block) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(files, block)

    def begin(files: JournalFiles, opening: bytes, begin: Callable[..., None] = JournalFiles.begin) -> None:
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        begin(files, opening)

    monkeypatch.setattr(JournalFiles, "append", append)
    monkeypatch.setattr(JournalFiles, "begin", begin)

    async def run() -> Gateway:
        nonlocal is_full
        gateway = Gateway(tmp_path / "journal")
        gateway.writer.start()
        await gateway.until(lambda: gateway.files.num_bytes > gateway.files.opening_bytes)
        is_full = True
        await gateway.until(lambda: gateway.journal.num_lost > 20)
        is_full = False
        await gateway.until(lambda: not gateway.writer.has_failed)
        await gateway.writer.stop()
        return gateway

    with caplog.at_level(logging.WARNING, logger="polyslo"):
        gateway = asyncio.run(run())
    before, after = open_journals(list(tmp_path.iterdir()))
    num_found = len(arrivals([before.path])) + len(arrivals([after.path]))
    assert RECORDS_EACH * num_found + gateway.journal.num_lost == gateway.journal.num_recorded
    list(before.records())
    assert any("cut off" in notice for notice in before.notices)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "No space left on device; serving goes on" in caplog.text


def test_a_slow_disk_costs_records_and_not_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for it is bounded; what is beyond is lost, and the next file begins after the gap."""
    monkeypatch.setattr(journal_writer, "MOST_HELD_BYTES", 500)
    write = JournalFiles.append

    async def run() -> Gateway:
        gateway = Gateway(tmp_path / "journal")
        gateway.writer.start()
        await gateway.until(lambda: gateway.files.num_bytes > 0)
        loop, free = asyncio.get_running_loop(), asyncio.Event()

        def append(files: JournalFiles, block: bytes) -> None:
            asyncio.run_coroutine_threadsafe(free.wait(), loop).result()
            write(files, block)

        monkeypatch.setattr(JournalFiles, "append", append)
        await gateway.until(lambda: not gateway.journal.is_open)
        assert gateway.journal.num_bytes == 0
        monkeypatch.setattr(JournalFiles, "append", write)
        free.set()
        await gateway.until(lambda: gateway.journal.is_open)
        await gateway.writer.stop()
        return gateway

    gateway = asyncio.run(run())
    before, after = open_journals(list(tmp_path.iterdir()))
    assert before.notices == after.notices == []
    assert (
        RECORDS_EACH * len(arrivals([before.path, after.path])) + gateway.journal.num_lost
        == gateway.journal.num_recorded
    )
    assert gateway.journal.num_lost > 0


def test_a_failed_beginning_costs_no_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file takes the name only when its opening is written; nothing of it is left otherwise."""
    files = JournalFiles(tmp_path / "journal", keep=2)
    files.begin(b"first")
    files.begin(b"second")
    files.end()

    def fail(files: JournalFiles) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(JournalFiles, "_shift", fail)
        with pytest.raises(OSError, match="No space"):
            files.begin(b"third")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "journal": b"second",
        "journal.1": b"first",
    }


def test_one_file_can_be_all_that_is_kept(tmp_path: Path) -> None:
    """With `keep = 1` a new file takes the old one's place."""
    files = JournalFiles(tmp_path / "journal", keep=1)
    files.begin(b"first")
    files.begin(b"second")
    files.end()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"second"]
