"""What happened to each request of a replay: arrays that replies are written into, a row a request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

OUTCOMES = ("attained", "missed", "refused", "failed", "unfinished")
ATTAINED, MISSED, REFUSED, FAILED, UNFINISHED = range(len(OUTCOMES))
MAX_KINDS = 64  # of errors; servers that put numbers into their reasons must not fill the memory
OTHER_KIND = "other"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a request ended; `kind` and `detail` say why when it was not served to its end."""

    outcome: int
    kind: str = ""
    detail: str = ""


class Records:
    """One row a request; times are the endpoint's clock in seconds since the start of the replay, NaN for never."""

    def __init__(self, num_requests: int) -> None:
        self.sent_s = np.full(num_requests, np.nan)  # [n] when it was really sent
        self.first_token_s = np.full(num_requests, np.nan)  # [n]
        self.last_token_s = np.full(num_requests, np.nan)  # [n]
        self.lateness_s = np.full(num_requests, np.nan)  # [n] of its latest token; negative: all were early
        self.num_tokens = np.zeros(num_requests, np.int64)  # [n]
        self.outcome = np.full(num_requests, UNFINISHED, np.int8)  # [n]
        self.kind = np.zeros(num_requests, np.int16)  # [n] index into kinds
        self.kinds = [""]  # of errors; the first is that of requests without one
        self.examples: dict[str, str] = {}  # what the first of each kind said
        self.num_by_events = 0  # answered requests whose tokens were counted by events
        self.num_by_usage = 0  # and by the usage in every event
        self.num_disagreeing = 0  # counted by events, and the server says another number

    def close(self, request: int, verdict: Verdict) -> None:
        """Write down how a request ended."""
        self.outcome[request] = verdict.outcome
        if verdict.kind:
            self.kind[request] = self._kind(verdict)

    def _kind(self, verdict: Verdict) -> int:
        name = verdict.kind
        if name not in self.kinds:
            if len(self.kinds) >= MAX_KINDS:
                name = OTHER_KIND
            if name not in self.kinds:
                self.kinds.append(name)
                self.examples[name] = verdict.detail
        return self.kinds.index(name)
