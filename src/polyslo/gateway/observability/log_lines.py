"""How log records become lines: one JSON object each, whoever wrote it, so that nothing has to be parsed twice.

Lines are written by a thread of their own: whoever reads stderr slowly, or not at all, holds no decision up. What
then finds no room is dropped, and the next line that does is preceded by how much that was.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import TextIO

import orjson

MAX_LINES = 20_000  # that wait to be written: some MB
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
        self._lines: queue.Queue[str | None] = queue.Queue(max_lines)
        self._num_lost = 0
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Leave a record's line to the thread; it is dropped where too many wait already."""
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        try:
            if self._num_lost:
                self._lines.put_nowait(_lost_line(self._num_lost))
                self._num_lost = 0
            self._lines.put_nowait(line)
        except queue.Full:
            self._num_lost += 1

    def close(self) -> None:
        """Wait a little for what is still to be written, and end the thread."""
        super().close()
        try:
            self._lines.put(None, timeout=LAST_WORDS_S)
        except queue.Full:
            return
        self._thread.join(LAST_WORDS_S)

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            with suppress(OSError, ValueError):  # nobody reads any more; later lines may have better luck
                self._stream.write(line + "\n")
                if self._lines.empty():
                    self._stream.flush()


def log_to_stderr(level: str) -> None:
    """Write everything from this level up to stderr."""
    logging.basicConfig(level=level.upper(), handlers=[LineWriter(sys.stderr)])


def _lost_line(count: int) -> str:
    told = f"{count} log lines were lost: stderr was not read as fast as they came"
    return JsonLines().format(logging.LogRecord("polyslo", logging.WARNING, "", 0, told, None, None))


def _text(value: object) -> object:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
