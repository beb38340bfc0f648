"""A polyslo process on this machine: started, listened to until it says where it is, and stopped with its children."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from queue import Empty, Queue

from polyslo.errors import InputError

STOP_GRACE_S = 10.0
_ADDRESS = re.compile(r"\bhttps?://[^\s/]+:\d+")


class LocalProcess:
    """`polyslo ARGUMENTS` in a process group of its own; what it says on stderr is kept, the last lines of it."""

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.name = name
        self._lines: Queue[str] = Queue()
        self.said: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "polyslo.cli.main", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def is_running(self) -> bool:
        """Tell whether it has not ended."""
        return self._process.poll() is None

    def addresses(self, count: int, timeout_s: float) -> list[str]:
        """Wait until it has told `count` addresses; raises `InputError` with its last words when it ends before."""
        found: list[str] = []
        until_s = time.monotonic() + timeout_s
        while len(found) < count:
            try:
                line = self._lines.get(timeout=0.2)
            except Empty:
                if self.is_running and time.monotonic() < until_s:
                    continue
                last = self.said[-1] if self.said else "nothing"
                what = "did not start in time" if self.is_running else f"ended with {self._process.returncode}"
                raise InputError(f"{self.name}: {what}; its last words: {last}") from None
            found += _ADDRESS.findall(line)
        return found

    def stop(self) -> None:
        """Ask it to end, and end it when it does not."""
        if not self.is_running:
            return
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as said:
            for line in said:
                self.said = [*self.said[-50:], line.rstrip()]
                self._lines.put(line)
