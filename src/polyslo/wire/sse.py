"""Count server-sent events in a body's pieces, as they pass.

The rules are those of the WHATWG's HTML standard, section 9.2: lines end with LF, CRLF or CR; an empty line ends an
event; `data` lines are its data; other fields and comments are none. Engines end a stream with the data `[DONE]`,
which is no event of the model's. Pieces are looked at, never kept: at most a line's first few bytes are.
"""

from __future__ import annotations

import re

_DONE = b"[DONE]"
_LONGEST_DONE_BYTES = len(b"data: [DONE]\n\n")
_LF, _CR = b"\n\r"  # to look for a byte by its number is ten times as fast as by a text of one
_LINE_END = re.compile(rb"\r\n|\n|\r")
_KEPT_BYTES = 16  # of an unfinished line: enough to tell `data: [DONE]` from what only begins like it


class EventCounter:
    """The events of one stream."""

    __slots__ = ("_after_cr", "_has_data", "_is_between", "_line", "done")

    def __init__(self) -> None:
        self.done = False  # whether [DONE] came
        self._is_between = True  # nothing of the next event has come, so a piece can be counted as a whole
        self._has_data = False  # the event that is coming has data other than [DONE]
        self._line = b""  # the beginning of the line that is coming
        self._after_cr = False  # a CR ended the last piece; a LF that begins the next one belongs to it

    def feed(self, data: bytes) -> int:
        """Return how many events with data other than [DONE] ended in this piece."""
        num_bytes = len(data)
        if (
            # One whole event of one data line, which is what engines send.
            self._is_between
            and num_bytes > _LONGEST_DONE_BYTES
            and data.find(b"\n") == num_bytes - 2
            and data[-1] == _LF
            and data[:5] == b"data:"
            and _CR not in data
        ):
            return 1
        return self._feed_many(data) or self._feed_lines(data)

    def _feed_many(self, data: bytes) -> int:
        """Count whole events of a data line each, as they come to a reader that is behind; 0 if it is not that."""
        num_ends = data.count(b"\n\n")
        if (
            self._is_between
            and data[:5] == b"data:"
            and data[-2:] == b"\n\n"
            and data.count(b"\n") == 2 * num_ends
            and data.count(b"\n\ndata:") == num_ends - 1
            and _CR not in data
            and _DONE not in data
        ):
            return num_ends
        return 0

    def _feed_lines(self, data: bytes) -> int:
        if self._after_cr and data[:1] == b"\n":
            data = data[1:]
            self._after_cr = False
        if not data:
            return 0
        self._after_cr = data.endswith(b"\r")
        *lines, rest = _LINE_END.split(data)
        num_events = 0
        for line in lines:
            num_events += self._take_line(self._line + line)
            self._line = b""
        self._line = (self._line + rest)[:_KEPT_BYTES]
        self._is_between = not (self._line or self._has_data or self._after_cr)
        return num_events

    def _take_line(self, line: bytes) -> int:
        """Take a line without its end; return 1 if it ends an event that counts."""
        if not line:
            counts, self._has_data = self._has_data, False
            return int(counts)
        name, _, value = line.partition(b":")
        if name == b"data":
            if value.removeprefix(b" ") == _DONE:
                self.done = True  # at once: some streams end without the empty line
            else:
                self._has_data = True
        return 0
