"""Takes a journal to its files four times a second, on a thread of its own, and never makes the gateway wait.

One write is under way at a time. What comes meanwhile is held up to a bound; when the disk is too slow for that, full
or gone, the journal has a gap: it says so once, counts what is lost, and from time to time tries to begin a new file.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from time import monotonic, time

from polyslo.gateway.decider import Decider
from polyslo.gateway.journal.blocks import HEAD, MAGIC, RECORDS, STATE, encode_block
from polyslo.gateway.journal.files import JournalFiles
from polyslo.gateway.journal.head import JournalHead
from polyslo.gateway.journal.journal import Journal
from polyslo.gateway.journal.state import Arrays, capture, encode_state

FLUSH_S = 0.25
RETRY_S = 10.0  # after a failure
MOST_HELD_BYTES = 1 << 25  # while a write is under way
LAST_WRITE_S = 5.0  # how long shutting down waits for the disk

log = logging.getLogger("polyslo")


class JournalWriter:
    """Writes what a journal holds; begins a file with `head` and the decider's state where one is needed."""

    def __init__(
        self,
        journal: Journal,
        decider: Decider,
        head: JournalHead,
        files: JournalFiles,
        *,
        max_bytes: int,
        there: Callable[[], tuple[Sequence[str], Sequence[int]]] = lambda: ((), ()),
    ) -> None:
        """`there` tells the names and roles of the instances, when a file is begun."""
        self.journal = journal
        self._decider = decider
        self._head = replace(head, run=os.urandom(6).hex())
        self._files = files
        self._max_bytes = max_bytes
        self._there = there
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._writing: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._retry_s = 0.0
        self.has_failed = False  # and nothing was written since

    @property
    def num_begun(self) -> int:
        """Files begun, also those that failed."""
        return self._head.sequence

    def start(self) -> None:
        """Begin the first file now, so that it has everything from here on."""
        self._decider.recorder = self.journal
        self._turn()

    async def stop(self) -> None:
        """Write what is held and complete the file."""
        self._decider.recorder = None
        if self._timer is not None:
            self._timer.cancel()
        try:
            async with asyncio.timeout(LAST_WRITE_S):
                if self._writing is not None:
                    await asyncio.wait([self._writing])
                await asyncio.wait([self._run(partial(_finish, self._files), *self.journal.take())])
        except TimeoutError:
            log.error("journal %s: the disk does not answer; the last records are lost", self._files.path)
        self.journal.discard()
        self._thread.shutdown(wait=False)

    def _turn(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._turn)
        journal, files = self.journal, self._files
        if self._writing is not None:
            if journal.num_bytes > MOST_HELD_BYTES:
                self._give_up(f"the disk is too slow, {journal.num_bytes:,} bytes wait for it")
        elif not journal.is_open:
            if monotonic() >= self._retry_s:
                self._begin()
        elif files.num_bytes >= max(self._max_bytes, 2 * files.opening_bytes):
            self._begin()
        elif journal.num_bytes:
            self._run(partial(_append, files), *journal.take())

    def _begin(self) -> None:
        """End the file with what is held, and begin one with the state as it is now: what is recorded next is its."""
        held = self.journal.take()
        number = self._head.sequence + 1
        head = replace(self._head, sequence=number, began_s=monotonic(), began_unix_s=time())
        self._head = head.with_instances(*self._there())
        job = partial(_begin, self._files, self._head, capture(self._decider))
        self.journal.is_open = True
        self._run(job, *held)

    def _run(self, job: Callable[[bytearray], None], records: bytearray, num_records: int) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        writing = self._writing = loop.run_in_executor(self._thread, _guarded, self._files, job, records)
        writing.add_done_callback(partial(self._done, num_records))
        return writing

    def _done(self, num_records: int, writing: asyncio.Future[None]) -> None:
        self._writing = None
        error = None if writing.cancelled() else writing.exception()
        if error is not None:
            self.journal.num_lost += num_records
            self._give_up(str(error))
        elif self.has_failed and self.journal.is_open:
            self.has_failed = False
            log.warning("journal %s: is written again, in a new file", self._files.path)

    def _give_up(self, why: str) -> None:
        self.journal.discard()
        self._retry_s = monotonic() + RETRY_S
        if not self.has_failed:
            self.has_failed = True
            log.error("journal %s: %s; serving goes on, a new file is tried every %g s", self._files.path, why, RETRY_S)


def opening_bytes(head: JournalHead, state: Arrays) -> bytes:
    """Return what a file begins with."""
    return MAGIC + encode_block(HEAD, head.encode()) + encode_block(STATE, encode_state(state))


def _guarded(files: JournalFiles, job: Callable[[bytearray], None], records: bytearray) -> None:
    """Do a job; when it fails, nothing more is written behind what may be half a block."""
    try:
        job(records)
    except BaseException:
        files.abandon()
        raise


def _begin(files: JournalFiles, head: JournalHead, state: Arrays, records: bytearray) -> None:
    _append(files, records)
    files.begin(opening_bytes(head, state))


def _append(files: JournalFiles, records: bytearray) -> None:
    if records:
        files.append(encode_block(RECORDS, records))


def _finish(files: JournalFiles, records: bytearray) -> None:
    _append(files, records)
    files.end()
