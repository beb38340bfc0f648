"""How log records become lines: one JSON object each, whoever wrote it, so that nothing has to be parsed twice."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import orjson


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


def log_to_stderr(level: str) -> None:
    """Write everything from this level up to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _text(value: object) -> object:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
