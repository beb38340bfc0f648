"""Answers under way: tokens in, bytes of vLLM's API out, one write an answer and iteration.

A client that takes less than it is sent does not stop the engine, and nothing is heaped up for it: tokens are only
counted, and go out as one chunk when it has caught up, as vLLM merges what its front end has not fetched yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from polyslo.engines.chunks import DONE, Chunks, whole_answer
from polyslo.engines.emulated_text import END_ID, WORDS, continuation, text_of
from polyslo.engines.generation import Generation, error_body
from polyslo.engines.histogram import Histogram
from polyslo.wire.server import Exchange

JSON = [(b"content-type", b"application/json")]
EVENT_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8")]
_TTFT_BOUNDS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0)
_DURATION_BOUNDS_S = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0)
DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."


class AnswerStats:
    """What the answers of one engine add up to; wall times, as vLLM's."""

    def __init__(self) -> None:
        self.num_finished = {"stop": 0, "length": 0, "abort": 0}
        self.ttft = Histogram(_TTFT_BOUNDS_S)
        self.duration = Histogram(_DURATION_BOUNDS_S)


class Answer(Protocol):
    """One answer, from its request on."""

    def on_token(self, is_last: bool) -> None:
        """Be told of a token."""

    def break_off(self) -> None:
        """End it properly where it is: the server shuts down."""

    def fail(self, reason: str = DEAD) -> None:
        """End it as vLLM does when its engine dies, or can't get the request's KV."""

    def cut(self) -> None:
        """Close its connection without another word."""


@dataclass(slots=True)
class Asked:
    """What an answer is to, and whom it tells of its first token and its end."""

    exchange: Exchange
    generation: Generation
    identity: tuple[str, int, str]  # id, when it was made, model
    stats: AnswerStats
    forget: Callable[[Answer], None]
    stream_interval: int = 1  # tokens to a chunk of a stream, but for the first and the last
    arrived_s: float = field(default_factory=time.monotonic)

    def note_first(self) -> None:
        """The first token goes out."""
        self.stats.ttft.observe(time.monotonic() - self.arrived_s)

    def note_end(self, answer: Answer, reason: str) -> None:
        """All of it has gone out."""
        self.stats.num_finished[reason] += 1
        self.stats.duration.observe(time.monotonic() - self.arrived_s)
        self.forget(answer)


class StreamedAnswer:
    """An answer as server-sent events, `[DONE]` at the end."""

    __slots__ = (
        "_asked", "_chunks", "_exchange", "_generation", "_head", "_interval", "_is_blocked", "_is_plain", "_num_made",
        "_num_sent", "_tail", "_tokens",
    )  # fmt: skip

    def __init__(self, asked: Asked) -> None:
        """Begin the stream."""
        self._asked = asked
        self._exchange, self._generation = exchange, generation = asked.exchange, asked.generation
        self._chunks = Chunks(generation.is_chat, *asked.identity)
        self._head, self._tail = self._chunks.head, self._chunks.tail
        self._tokens = continuation(generation.state)
        self._num_made = self._num_sent = 0
        self._interval = asked.stream_interval
        self._is_blocked = False
        self._is_plain = False  # the next chunk is nothing but a word: the first, and the last, are more
        exchange.on_blocked = self._on_blocked
        exchange.start(200, EVENT_STREAM)

    def on_token(self, is_last: bool) -> None:
        """Send it, or count it while the client is behind."""
        self._num_made += 1
        if self._is_plain and not is_last:
            self._num_sent += 1
            self._exchange.write(self._head + WORDS[next(self._tokens)] + self._tail)
        elif is_last:
            self._finish(self._generation.finish_reason)
        elif not self._is_blocked and self._is_due:
            self._exchange.write(self._unsent(None))
            wants, is_each = self._generation, self._interval == 1
            says_more = wants.wants_token_ids or wants.wants_continuous_usage
            self._is_plain = is_each and not (self._is_blocked or says_more)

    def break_off(self) -> None:
        """Say `abort`."""
        self._finish("abort")

    def fail(self, reason: str = DEAD) -> None:
        """Send an error as an event, then `[DONE]` all the same."""
        self._exchange.write(b"data: " + error_body(reason, "InternalServerError", 500) + b"\n\n" + DONE)
        self._exchange.end()

    def cut(self) -> None:
        """Close the connection mid-stream."""
        self._exchange.abort()

    @property
    def _is_due(self) -> bool:
        """Whether enough tokens wait for a chunk; the first goes out at once."""
        return not self._num_sent or self._num_made - self._num_sent >= self._interval

    def _finish(self, reason: str) -> None:
        generation, usage = self._generation, b""
        if generation.wants_usage:
            usage = self._chunks.usage_chunk(generation.input_tokens, self._num_made)
        self._exchange.write(self._unsent(reason) + usage + DONE)
        self._exchange.end()
        self._asked.note_end(self, reason)

    def _unsent(self, finish_reason: str | None) -> bytes:
        """Return one chunk with all tokens that have not been sent, the opening before it where it is due."""
        generation, is_first = self._generation, self._num_sent == 0
        ids = [next(self._tokens) for _ in range(self._num_made - self._num_sent)]
        if finish_reason == "stop":
            ids[-1] = END_ID
        self._num_sent = self._num_made
        prompt_ids = generation.prompt_ids.tolist() if is_first and generation.wants_token_ids else None
        if is_first:
            self._asked.note_first()
        wants_count, prompt = generation.wants_continuous_usage, generation.input_tokens
        chunk = self._chunks.chunk(
            text_of(ids),
            finish_reason=finish_reason,
            token_ids=ids if generation.wants_token_ids else None,
            prompt_ids=prompt_ids,
            usage=(prompt, self._num_made) if wants_count else None,
        )
        return self._chunks.opening(prompt_ids, (prompt, 0) if wants_count else None) + chunk if is_first else chunk

    def _on_blocked(self, is_blocked: bool) -> None:
        self._is_blocked = is_blocked
        self._is_plain = False
        if not is_blocked and self._num_made > self._num_sent:
            self._exchange.write(self._unsent(None))


class WholeAnswer:
    """An answer in one body."""

    __slots__ = ("_asked", "_num_made", "keep_kv")

    def __init__(self, asked: Asked) -> None:
        """Nothing goes out before the end."""
        self._asked = asked
        self._num_made = 0
        self.keep_kv: Callable[[int], dict[str, Any]] | None = None  # a prefill's: asked when the prompt has ended

    def on_token(self, is_last: bool) -> None:
        """Count it; the last one sends the answer."""
        self._num_made += 1
        if self._num_made == 1:
            self._asked.note_first()
        if is_last:
            self._finish(self._asked.generation.finish_reason)

    def break_off(self) -> None:
        """Send what there is, and say `abort`."""
        self._finish("abort")

    def fail(self, reason: str = DEAD) -> None:
        """Answer 500."""
        self._asked.exchange.respond(500, JSON, error_body(reason, "InternalServerError", 500))

    def cut(self) -> None:
        """Close the connection without an answer."""
        self._asked.exchange.abort()

    def _finish(self, reason: str) -> None:
        generation = self._asked.generation
        tokens = continuation(generation.state)
        ids = [next(tokens) for _ in range(self._num_made)]
        if reason == "stop":
            ids[-1] = END_ID
        shown = generation.wants_token_ids
        body = whole_answer(
            generation.is_chat,
            *self._asked.identity,
            text=text_of(ids),
            finish_reason=reason,
            usage=(generation.input_tokens, self._num_made),
            token_ids=ids if shown else None,
            prompt_ids=generation.prompt_ids.tolist() if shown else None,
            kv_transfer_params=self._kept_kv(reason),
        )
        self._asked.exchange.respond(200, JSON, body)
        self._asked.note_end(self, reason)

    def _kept_kv(self, reason: str) -> dict[str, Any] | None:
        if self.keep_kv is None or reason == "abort":
            return None
        return self.keep_kv(self._asked.generation.input_tokens)
