"""Tokens that came of a request: counted, and held against their deadline."""

from __future__ import annotations

from polyslo.gateway.relays.passage import Passage
from polyslo.gateway.requests.request import Request


def count_tokens(passage: Passage, request: Request, tokens: int, now_s: float) -> None:
    """Count tokens that came now, and note whether they are late."""
    if passage.tokens == 0:
        passage.first_token_s = now_s
    # Of tokens that come together the first is due first; an answer that comes whole is due with its last.
    judged = passage.tokens if request.is_streamed else passage.tokens + tokens - 1
    passage.tokens += tokens
    passage.last_token_s = now_s
    if now_s > request.arrival_s + request.ttft_s + judged // request.num_sequences * request.tpot_s:
        passage.is_late = True


def answer_tokens(passage: Passage, request: Request) -> int:
    """Return how long each of a request's answers got."""
    return max(1, passage.tokens // request.num_sequences)
