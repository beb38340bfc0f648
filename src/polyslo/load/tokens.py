"""How many tokens a streamed answer has brought so far, for less than a microsecond an event.

One event is one token in the usual case, and not always: the first event of a chat brings a role, the last one
usage, an engine that is ahead of its reader sends several tokens at once, and a broken one sends an `error` event
followed by `[DONE]` (vLLM does when its engine dies). So events are read as JSON, but not all: the events of one
stream differ in their text only, so that one which begins and ends as a plain token did is another plain token.
With `by_usage` the count is the server's own, which comes with every token when `continuous_usage_stats` was asked
for.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

MAX_EVENT_BYTES = 1 << 20
MAX_ERROR_CHARACTERS = 200
MAX_FRAMES = 100  # learned in a stream; some servers put the second into their events, none should put more
_NEVER = b"\xff"  # begins no text in UTF-8
_TEXT = re.compile(rb'"(?:text|content|reasoning|reasoning_content)": ?"((?:[^"\\]|\\.)*)')
_USAGE = re.compile(rb'"usage": ?\{')
_COUNT = re.compile(rb'"completion_tokens": ?(\d+)')


class TokenCounter:
    """Counts the tokens of one stream; pieces may end anywhere.

    `num_tokens` were counted, of which the last `num_doubtful` (0 or 1) may be none: an empty event with a finish
    reason closes the stream in some servers and carries a token in others. `usage_tokens` is what the server says.
    """

    __slots__ = (
        "_before_text",
        "_behind_text",
        "_by_usage",
        "_num_frames",
        "_partial",
        "counted_by_events",
        "error",
        "finish_reason",
        "is_done",
        "num_doubtful",
        "num_tokens",
        "usage_tokens",
    )

    def __init__(self, *, by_usage: bool = False) -> None:
        self._by_usage = by_usage
        self._partial = b""
        self._before_text = _NEVER  # how a plain token's event begins, to the quote that opens its text
        self._behind_text = b""  # and what follows its text: to its end, or to the numbers of its usage
        self._num_frames = 0
        self.counted_by_events = not by_usage  # or: some event of a stream without the usage that was asked for
        self.error: tuple[str, str] | None = None  # kind, detail
        self.finish_reason: str | None = None
        self.is_done = False  # [DONE] has come
        self.num_doubtful = 0
        self.num_tokens = 0
        self.usage_tokens: int | None = None

    def feed(self, data: bytes) -> int:
        """Take a piece of the body; return how many tokens its events brought."""
        if not self._partial and data.find(b"\n") == len(data) - 2 and data.endswith(b"\n\n"):
            num_tokens = self._count_plain(data, len(data) - 2)
            if num_tokens is not None:
                return num_tokens
        return self._read_all(data)

    def end(self) -> int:
        """Take the end of the body, which ends the last event too."""
        return self._read_all(b"\n\n") if self._partial else 0

    def final_tokens(self, expected_tokens: int) -> int:
        """Return the answer's tokens: what the server says, else what was counted; a doubtful one if expected."""
        if self.usage_tokens is not None:
            return self.usage_tokens
        certain = self.num_tokens - self.num_doubtful
        return min(self.num_tokens, max(certain, expected_tokens))

    @property
    def disagrees(self) -> bool:
        """Whether the count of events is not what the server says: deadlines were then those of other tokens."""
        if self.usage_tokens is None:
            return False
        return not self.num_tokens - self.num_doubtful <= self.usage_tokens <= self.num_tokens

    def _count_plain(self, event: bytes, end: int) -> int | None:
        """Count the event that ends at `end` if it is framed as a plain token was; None: it has to be read."""
        if not event.startswith(self._before_text):
            return None
        if not self._by_usage:
            if not event.endswith(self._behind_text, 0, end):
                return None
            self.num_tokens += 1
            return 1
        behind = event.find(self._behind_text, len(self._before_text))
        count = _COUNT.search(event, behind) if behind >= 0 else None
        return None if count is None else self._count_to(int(count[1]))

    def _count_to(self, total: int) -> int:
        self.usage_tokens = total
        num_tokens = max(0, total - self.num_tokens)
        self.num_tokens += num_tokens
        return num_tokens

    def _read_all(self, data: bytes) -> int:
        """Read the events that are whole as JSON, and keep the rest."""
        text = (self._partial + data).replace(b"\r\n", b"\n")
        *events, self._partial = text.split(b"\n\n")
        if len(self._partial) > MAX_EVENT_BYTES:
            self.error, self._partial = ("malformed", f"an event of more than {MAX_EVENT_BYTES:,} bytes"), b""
        before = self.num_tokens
        for event in events:
            self._read(event)
        return self.num_tokens - before

    def _read(self, event: bytes) -> None:
        if self._count_plain(event, len(event)) is not None:
            return
        data = b"\n".join(line[5:] for line in event.split(b"\n") if line.startswith(b"data:")).strip()
        if not data:
            return  # a comment that keeps the connection alive, or an empty line too many
        if data == b"[DONE]":
            self.is_done = True
            return
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            self.error = self.error or ("malformed", f"not a JSON object: {data[:80]!r}")
        elif document.get("error"):
            self.error = self.error or ("error_event", error_text(document))
        else:
            self._take(document, event)

    def _take(self, document: dict[str, Any], event: bytes) -> None:
        usage = document.get("usage")
        total = usage.get("completion_tokens") if isinstance(usage, dict) else None
        choices = document.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
        if choice is not None:
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if isinstance(total, int) and self._by_usage:
            self._count_to(total)
        else:
            self.usage_tokens = total if isinstance(total, int) else self.usage_tokens
            if choice is not None:
                self._count_event(choice)
        is_plain = choice is not None and not choice.get("finish_reason") and not _is_empty(choice)
        if is_plain and isinstance(total, int) == self._by_usage:
            self._learn_frame(event)

    def _count_event(self, choice: dict[str, Any]) -> None:
        if _is_empty(choice):
            if self._by_usage and self.usage_tokens is not None:
                return  # how a chat ends whose tokens stated their count (SGLang)
            if choice.get("finish_reason"):
                self.num_doubtful = 1
            elif "role" in (choice.get("delta") or ()):
                return  # the first event of a chat
        self.counted_by_events = True
        self.num_tokens += 1

    def _learn_frame(self, event: bytes) -> None:
        """Remember what stands around the text of a plain token. Quotes are escaped in text: it can't imitate it."""
        if self._num_frames >= MAX_FRAMES or b"\n" in event:
            return
        text = _TEXT.search(event)
        usage = _USAGE.search(event, text.end()) if text is not None and self._by_usage else None
        if text is None or (self._by_usage and usage is None):
            return
        self._num_frames += 1
        self._before_text = event[: text.start(1)]
        self._behind_text = event[text.end() : usage.end() if usage is not None else len(event)]


def error_text(said: Any) -> str:
    """Return the message of an OpenAI-shaped error, however it is nested; of bytes that are none, the beginning."""
    if isinstance(said, bytes):
        try:
            said = orjson.loads(said)
        except orjson.JSONDecodeError:
            said = said.decode("utf-8", "replace")
    error = said.get("error", said) if isinstance(said, dict) else said
    message = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(message).split())[:MAX_ERROR_CHARACTERS]


def _is_empty(choice: dict[str, Any]) -> bool:
    """Tell whether a choice has neither text nor anything else that was generated."""
    delta = choice.get("delta")
    if isinstance(delta, dict):
        return not any(value for key, value in delta.items() if key != "role")
    return not choice.get("text") and not choice.get("token_ids")
