"""One request under way: its answer's tokens against their deadlines, as they come.

A `Reply` is the sink that the wire writes an answer into. What a token costs here bounds what the generator can
measure: a piece is counted, one timestamp is compared with the next due time, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from polyslo.load.records import ATTAINED, FAILED, MISSED, REFUSED, UNFINISHED, Records, Verdict
from polyslo.load.tokens import TokenCounter, error_text
from polyslo.wire.client import Failure

MAX_ERROR_BYTES = 4096  # of the body of an answer that is none
_OK = 200
_REFUSALS = (429, 503)
_REASON = b"x-llm-d-request-dropped-reason"
_ABNORMAL_ENDS = ("abort", "error", "content_filter")


class Abortable(Protocol):
    """What a reply needs of the wire's `Call`."""

    def abort(self) -> None:
        """Close the connection at once."""


class Reply:
    """The answer to one request, a sink of the wire.

    Token i is due at `first_due_s + i * tpot_s` on `clock`. With `exact` an answer must have `expected_tokens`,
    else from one to that many. `on_end` is called once, when the answer has ended by itself.
    """

    __slots__ = (
        "_clock",
        "_due_s",
        "_error_body",
        "_exact",
        "_expected_tokens",
        "_on_end",
        "_reason",
        "_status",
        "_tpot_s",
        "call",
        "first_token_s",
        "last_token_s",
        "lateness_s",
        "request",
        "tokens",
        "verdict",
    )

    def __init__(
        self,
        request: int,
        tokens: TokenCounter,
        *,
        first_due_s: float,
        tpot_s: float,
        expected_tokens: int,
        exact: bool,
        clock: Callable[[], float],
        on_end: Callable[[Reply], None],
    ) -> None:
        self.request = request
        self.tokens = tokens
        self.call: Abortable | None = None
        self.verdict: Verdict | None = None
        self.first_token_s = float("nan")
        self.last_token_s = float("nan")
        self.lateness_s = float("-inf")
        self._due_s = first_due_s
        self._tpot_s = tpot_s
        self._expected_tokens = expected_tokens
        self._exact = exact
        self._clock = clock
        self._on_end = on_end
        self._status = 0
        self._reason = ""
        self._error_body = b""

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Take the head; a refusal's reason is in it."""
        self._status = status
        if status != _OK:
            self._reason = next((v.decode("latin-1") for name, v in headers if name.lower() == _REASON), "")

    def on_data(self, data: bytes) -> None:
        """Take a piece of the body and compare its tokens with their deadlines."""
        if self._status != _OK:
            self._error_body = (self._error_body + data)[:MAX_ERROR_BYTES]
            return
        num_tokens = self.tokens.feed(data)
        if num_tokens:
            self._note(num_tokens)

    def on_end(self) -> None:
        """Take the end of the answer and judge it."""
        if self._status == _OK and (num_tokens := self.tokens.end()):
            self._note(num_tokens)
        self._close(self._judge() if self._status == _OK else self._judge_error())

    def on_failure(self, failure: Failure) -> None:
        """Take the end of the connection."""
        outcome = UNFINISHED if failure.kind == "timeout" else FAILED
        self._close(Verdict(outcome, failure.kind, failure.detail))

    def give_up(self, kind: str) -> None:
        """Abort the request and call it unfinished; `on_end` is not called."""
        self.verdict = Verdict(UNFINISHED, kind)
        if self.call is not None:
            self.call.abort()
            self.call = None

    def write_into(self, records: Records, start_s: float) -> None:
        """Write the answer's row; times are from `start_s`, on the reply's clock."""
        request = self.request
        records.close(request, self.verdict or Verdict(UNFINISHED))
        if self._status != _OK:
            return
        records.num_tokens[request] = self.tokens.final_tokens(self._expected_tokens)
        if self.tokens.num_tokens:
            records.first_token_s[request] = self.first_token_s - start_s
            records.last_token_s[request] = self.last_token_s - start_s
            records.lateness_s[request] = self.lateness_s
            records.num_by_events += self.tokens.counted_by_events
            records.num_by_usage += not self.tokens.counted_by_events
            records.num_disagreeing += self.tokens.disagrees

    def _note(self, num_tokens: int) -> None:
        """Compare tokens that came together with the deadline of the first, which is the tightest."""
        now_s = self._clock()
        lateness_s = now_s - self._due_s
        if lateness_s > self.lateness_s:
            self.lateness_s = lateness_s
        if self.tokens.num_tokens == num_tokens:
            self.first_token_s = now_s
        self.last_token_s = now_s
        self._due_s += num_tokens * self._tpot_s

    def _close(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self.call = None  # or the two would keep each other alive until the next collection
        self._on_end(self)

    def _judge(self) -> Verdict:
        tokens = self.tokens
        if tokens.error is not None:
            return Verdict(FAILED, *tokens.error)
        if not tokens.is_done:
            return Verdict(FAILED, "truncated", "the stream ended without [DONE]")
        if tokens.finish_reason in _ABNORMAL_ENDS:
            return Verdict(FAILED, "aborted", f"finish_reason {tokens.finish_reason!r}")
        num_tokens = tokens.final_tokens(self._expected_tokens)
        told = f"expected {self._expected_tokens:,} tokens, got {num_tokens:,}"
        fewest = self._expected_tokens if self._exact else 1
        if num_tokens < fewest or not tokens.num_tokens:
            return Verdict(FAILED, "too_few_tokens", told)
        if num_tokens > self._expected_tokens:
            return Verdict(FAILED, "too_many_tokens", told)
        return Verdict(ATTAINED if self.lateness_s <= 0 else MISSED)

    def _judge_error(self) -> Verdict:
        detail = error_text(self._error_body)
        if self._status in _REFUSALS:
            return Verdict(REFUSED, f"http {self._status} {self._reason}".rstrip(), detail)
        return Verdict(FAILED, f"http {self._status}", detail)
