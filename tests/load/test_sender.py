from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load.fakes import DONE, FakeCall, event, usage_event
from polyslo.load.records import ATTAINED, FAILED, MISSED, REFUSED, UNFINISHED, Records, Verdict
from polyslo.load.sender import Reply
from polyslo.load.tokens import TokenCounter
from polyslo.wire.client import Failure

TTFT_S, TPOT_S = 1.0, 0.5  # exact in binary, so that on time means on time


class Answer:
    """A reply whose clock the test moves; it was due to be sent at 0."""

    def __init__(self, expected_tokens: int = 3, *, exact: bool = True, by_usage: bool = False) -> None:
        self.now_s = 0.0
        self.num_ends = 0
        self.reply = Reply(
            0,
            TokenCounter(by_usage=by_usage),
            first_due_s=TTFT_S,
            tpot_s=TPOT_S,
            expected_tokens=expected_tokens,
            exact=exact,
            clock=lambda: self.now_s,
            on_end=self._count_end,
        )

    def _count_end(self, reply: Reply) -> None:
        self.num_ends += 1

    def head(self, status: int = 200, **headers: str) -> Answer:
        """Let the head come."""
        self.reply.on_head(status, [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()])
        return self

    def data(self, *pieces: bytes, at_s: float | None = None) -> Answer:
        """Let pieces come at one time."""
        self.now_s = self.now_s if at_s is None else at_s
        for piece in pieces:
            self.reply.on_data(piece)
        return self

    def end(self) -> Verdict:
        """Let the answer end, and return the verdict."""
        self.reply.on_end()
        assert self.num_ends == 1
        assert self.reply.verdict is not None
        return self.reply.verdict


def test_tokens_on_their_due_times_attain():
    """Token i may come as late as TTFT + i x TPOT, and no later."""
    answer = Answer().head()
    answer.data(event(), at_s=1.0).data(event(), at_s=1.5).data(event(finish="length"), at_s=2.0)
    assert answer.data(usage_event(3), DONE).end() == Verdict(ATTAINED)
    assert answer.reply.lateness_s == 0.0
    assert (answer.reply.first_token_s, answer.reply.last_token_s) == (1.0, 2.0)


def test_early_tokens_earn_slack():
    """A gap longer than the TPOT is fine where earlier tokens were early, and lateness tells what is left."""
    answer = Answer().head()
    answer.data(event(), at_s=0.1).data(event(), at_s=1.4).data(event(finish="length"), at_s=1.75)
    assert answer.data(DONE).end() == Verdict(ATTAINED)
    assert answer.reply.lateness_s == pytest.approx(-0.1)


def test_one_late_token_misses():
    """However early the others were."""
    answer = Answer().head().data(event(), at_s=0.1).data(event(), at_s=1.6).data(event(finish="length"), at_s=1.7)
    assert answer.data(DONE).end() == Verdict(MISSED)
    assert answer.reply.lateness_s == pytest.approx(0.1)


def test_tokens_that_come_together_are_as_late_as_the_first():
    """A piece of several events is compared with the earliest of their deadlines."""
    answer = Answer().head().data(event(), at_s=0.5).data(event() + event(finish="length"), at_s=1.75)
    assert answer.data(DONE).end() == Verdict(MISSED)
    assert answer.reply.lateness_s == 0.25


def test_usage_moves_the_deadline_by_every_token():
    """Where the server says how many tokens an event has, the next one's deadline is that of its own number."""
    answer = Answer(5, by_usage=True).head().data(event(usage=4), at_s=0.5)
    answer.data(event(usage=5, finish="length"), at_s=3.0)
    assert answer.data(DONE).end() == Verdict(ATTAINED)


@given(st.lists(st.integers(0, 2000), max_size=12))
def test_the_verdict_does_not_depend_on_the_pieces(places):
    """However the answer is cut, it has its tokens, and is on time when every piece is."""
    stream = event("a") + event('\\"') + event("c", finish="length") + usage_event(3) + DONE
    edges = [0, *sorted(p % len(stream) for p in places), len(stream)]
    answer = Answer().head().data(*(stream[a:b] for a, b in pairwise(edges)), at_s=0.9)
    assert answer.end() == Verdict(ATTAINED)


def test_an_error_event_before_done_is_a_failure():
    """Neither HTTP 200 nor [DONE] makes it a success."""
    answer = Answer().head().data(event(), b'data: {"error":{"message":"engine died"}}\n\n', DONE, at_s=0.5)
    assert answer.end() == Verdict(FAILED, "error_event", "engine died")


def test_an_aborted_answer_is_a_failure():
    """An engine that is told to stop ends its streams with the finish reason abort."""
    answer = Answer().head().data(event(), event(), event(finish="abort"), DONE, at_s=0.5)
    assert answer.end().kind == "aborted"


def test_a_stream_without_done_is_truncated():
    """A body that is whole for HTTP is not yet whole for the API."""
    assert Answer().head().data(event(), event(), event(finish="length")).end().kind == "truncated"


@pytest.mark.parametrize(("num_tokens", "kind"), [(2, "too_few_tokens"), (4, "too_many_tokens"), (0, "too_few_tokens")])
def test_another_number_of_tokens_is_a_failure(num_tokens, kind):
    """An answer of a length that was not asked for says nothing about the SLO."""
    verdict = Answer().head().data(*[event()] * num_tokens, usage_event(num_tokens), DONE, at_s=0.5).end()
    assert (verdict.outcome, verdict.kind) == (FAILED, kind)
    assert verdict.detail == f"expected 3 tokens, got {num_tokens}"


def test_a_capped_answer_may_be_shorter():
    """Where lengths are only capped, the model may stop before; nothing at all is still no answer."""
    assert Answer(exact=False).head().data(event(finish="stop"), DONE, at_s=0.5).end() == Verdict(ATTAINED)
    assert Answer(exact=False).head().data(DONE).end().kind == "too_few_tokens"
    assert Answer(exact=False).head().data(usage_event(2), DONE).end().kind == "too_few_tokens"


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_is_told_by_its_reason(status):
    """The gateway's reason and message are kept."""
    answer = Answer().head(status, x_llm_d_request_dropped_reason="slo-infeasible")
    answer.data(b'{"error":{"mess', b'age":"no room"}}')
    assert answer.end() == Verdict(REFUSED, f"http {status} slo-infeasible", "no room")


def test_another_status_is_a_failure():
    """Its body says why, whether it is JSON or not, and only its beginning is kept."""
    assert Answer().head(400).data(b'{"error":"max_tokens"}').end() == Verdict(FAILED, "http 400", "max_tokens")
    verdict = Answer().head(500).data(*[b"<html>" * 1000] * 50).end()
    assert verdict.kind == "http 500"
    assert len(verdict.detail) <= 200


def test_a_connection_that_breaks_is_a_failure_of_its_kind():
    """Only a time-out leaves the request unfinished."""
    answer = Answer().head().data(event(), at_s=0.5)
    answer.reply.on_failure(Failure("reset", "closed by the peer", started=True))
    assert answer.reply.verdict == Verdict(FAILED, "reset", "closed by the peer")
    late = Answer().head()
    late.reply.on_failure(Failure("timeout", "no byte", started=True))
    assert late.reply.verdict is not None
    assert late.reply.verdict.outcome == UNFINISHED


def test_giving_up_aborts_and_calls_nobody():
    """Who gives a request up knows it."""
    answer, call = Answer().head(), FakeCall()
    answer.reply.call = call
    answer.reply.give_up("timeout")
    assert call.aborted
    assert answer.num_ends == 0
    assert answer.reply.verdict == Verdict(UNFINISHED, "timeout")


def test_the_row_of_an_answer_counts_from_the_start_of_the_replay():
    """Times are relative, tokens those of the server, and a request without an answer has none."""
    records = Records(1)
    answer = Answer().head().data(event(), at_s=0.5).data(event(), event(finish="length"), DONE, at_s=0.75)
    answer.end()
    answer.reply.write_into(records, 0.25)
    assert (records.first_token_s[0], records.last_token_s[0], records.num_tokens[0]) == (0.25, 0.5, 3)
    assert (records.outcome[0], records.num_by_events, records.num_disagreeing) == (ATTAINED, 1, 0)
    refused = Records(1)
    other = Answer().head(429)
    other.end()
    other.reply.write_into(refused, 0.0)
    assert math.isnan(refused.first_token_s[0])
    assert refused.kinds[refused.kind[0]] == "http 429"


def test_kinds_of_errors_are_bounded():
    """A server that writes a number into each reason does not fill the memory."""
    records = Records(200)
    for k in range(200):
        records.close(k, Verdict(REFUSED, f"http 429 {k}"))
    assert len(records.kinds) <= 65
    assert records.kinds[records.kind[199]] == "other"
