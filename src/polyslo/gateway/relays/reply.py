"""What an engine has answered so far, as far as it is kept: all until a stream's first token, then only its end.

Events are counted, nothing is parsed, unless it belongs to `OneStream`. The end is kept for what engines say there:
usage, and that they broke off.
"""

from __future__ import annotations

from polyslo.gateway.belief.event_tokens import ONE_EACH, EventTokens
from polyslo.gateway.belief.stream_tokens import TokenCounter
from polyslo.gateway.belief.usage import prompt_tokens
from polyslo.gateway.relays.broken import ERROR, is_broken
from polyslo.gateway.relays.one_stream import OneStream
from polyslo.gateway.relays.passage import Header
from polyslo.gateway.requests.body import Ask
from polyslo.wire.client import end_to_end

OUR_HEADERS = frozenset({b"x-request-id", b"x-session-id"})  # of which the response has ours
TAIL_BYTES = 4096  # of a stream, where its usage stands
MOST_HELD_BYTES = 65_536  # of a stream that has shown no token


class Reply:
    """One engine's answer to one request."""

    def __init__(
        self,
        ask: Ask,
        one: OneStream | None = None,
        event_tokens: EventTokens = ONE_EACH,
        *,
        is_streamed: bool,
    ) -> None:
        """`is_streamed`: a stream was asked for; errors are none. `one`: the answer that it is a part of."""
        self.status = 0
        self.headers: list[Header] = []
        self.has_failed = False  # it told of an error after its first token
        self._is_streamed = is_streamed
        self._one = one
        self.counter = TokenCounter(ask, event_tokens)
        self._pieces: list[bytes] = []  # all, or the last ones, cut to `TAIL_BYTES` now and then
        self._num_bytes = 0

    @property
    def is_stream(self) -> bool:
        """Whether it is the stream that was asked for."""
        return self._is_streamed and self.status == 200

    @property
    def held(self) -> bytes:
        """Everything, as long as nothing was let out."""
        return b"".join(self._pieces)

    @property
    def is_held_too_long(self) -> bool:
        """Whether a stream that has shown no token is held no longer."""
        return self._num_bytes > MOST_HELD_BYTES

    def begin(self, status: int, headers: list[Header]) -> None:
        """Take its head."""
        self.status = status if status <= 599 else 502  # what HTTP has no room for can't be passed on
        self.headers = [header for header in end_to_end(headers) if header[0] not in OUR_HEADERS]

    def hold(self, data: bytes) -> int:
        """Keep a piece; return the tokens in it, where it is one of a stream."""
        data, tokens = self._read(data) if self.is_stream else (data, 0)
        self._pieces.append(data)
        self._num_bytes += len(data)
        return tokens

    def follow(self, data: bytes) -> tuple[bytes, int]:
        """Take note of a piece that goes on at once; return it and its tokens, none where it tells of an error."""
        data, tokens = self._read(data)
        return data, 0 if self._note(data) else tokens

    def count(self, data: bytes) -> int:
        """Take note of a piece that goes on as it is; return its tokens, none where it tells of an error."""
        tokens = self.counter.feed(data)
        return 0 if self._note(data) else tokens

    def finish(self) -> bytes:
        """Take note of its end; return what of it is still to go on."""
        left = b"" if self._one is None else self._one.finish()
        self._pieces.append(left)
        return left

    @property
    def prompt_tokens(self) -> int | None:
        """The prompt's tokens, as its engine counts them; None where it has not said."""
        return prompt_tokens(self.cut()) or (self._one.said.prompt_tokens or None if self._one is not None else None)

    def cut(self) -> bytes:
        """Keep but the end, and return it."""
        tail = self.held[-TAIL_BYTES:]
        self._pieces, self._num_bytes = [tail], len(tail)
        return tail

    def _note(self, data: bytes) -> bool:
        """Keep a piece that goes on; tell whether it tells of an error."""
        self._pieces.append(data)
        self._num_bytes = num_bytes = self._num_bytes + len(data)
        if num_bytes > 3 * TAIL_BYTES // 2:
            self.cut()
        if ERROR not in data or not is_broken(self.cut()):
            return False
        self.has_failed = True
        return True

    def _read(self, data: bytes) -> tuple[bytes, int]:
        """Return what the client is sent of a piece of a stream, and its tokens."""
        return (data, self.counter.feed(data)) if self._one is None else self._one.feed(data)
