"""How log records become lines: one JSON object each, whoever wrote it, so that nothing has to be parsed twice.

Lines are written by a thread of their own: whoever reads stderr slowly, or not at all, holds no decision up. What
then finds no room is dropped, and the next line that does is preceded by how much that was. Lines are gathered for a
moment, as to wake a thread costs more than to write a line; where writing fails, what was gathered is lost.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from typing import TextIO

import orjson

MAX_LINES = 20_000  # that wait to be written: some MB
GATHER_S = 0.02
LAST_WORDS_S = 2.0  # how long an ending process waits for them to be written


class JsonLines(logging.Formatter):
    """`at`, `level`, `event` or `message`, then the fields that the record's writer gave as `told`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record's line; nothing that a client sends can break it."""
        told = getattr(record, "told", None)
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message" if told is None else "event": record.getMessage(),
            **(told or {}),
        }
        if record.name != "polyslo":
            line["logger"] = record.name
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line).decode()
        except TypeError:  # a text that is no Unicode, such as half a surrogate pair
            return orjson.dumps({name: _text(value) for name, value in line.items()}).decode()


class LineWriter(logging.Handler):
    """Writes lines to a stream, in the background."""

    def __init__(self, stream: TextIO, max_lines: int = MAX_LINES) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self._stream = stream
        self._max_lines = max_lines
        self._lines: deque[str] = deque()
        self._num_lost = 0
        self._is_awake = False  # the thread, and it has not looked for lines yet
        self._has_lines, self._ends = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Leave a record's line to the thread; it is dropped where too many wait already."""
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        if len(self._lines) >= self._max_lines:
            self._num_lost += 1
            return
        if self._num_lost:
            self._lines.append(_lost_line(self._num_lost))
            self._num_lost = 0
        self._lines.append(line)
        if not self._is_awake:
            self._is_awake = True
            self._has_lines.set()

    def close(self) -> None:
        """Wait a little for what is still to be written, and end the thread."""
        super().close()
        self._ends.set()
        self._has_lines.set()
        self._thread.join(LAST_WORDS_S)

    def _write_all(self) -> None:
        while self._lines or not self._ends.is_set():
            self._has_lines.wait()
            self._has_lines.clear()
            self._ends.wait(GATHER_S)
            self._is_awake = False  # first: a line that comes from now on may not be among these
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            with suppress(OSError, ValueError):  # nobody reads any more; later lines may have better luck
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()


def log_to_stderr(level: str) -> None:
    """Write everything from this level up to stderr."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line says them
    logging.basicConfig(level=level.upper(), handlers=[LineWriter(sys.stderr)])


def _lost_line(count: int) -> str:
    told = f"{count} log lines were lost: stderr was not read as fast as they came"
    return JsonLines().format(logging.LogRecord("polyslo", logging.WARNING, "", 0, told, None, None))


def _text(value: object) -> object:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
