"""What a journal says, one record after the other: inputs of a decider with what it decided, and what became of it.

Times are seconds of the gateway's monotonic clock, bit for bit as decisions were made on them. How records become
bytes is `coding.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# See `listeners`; numbers are kept.
OUTCOMES = ("attained", "missed", "refused", "failed", "cancelled", "rejected", "served")

Action = tuple[int, int, int]
Pairs = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request was decided about."""

    now_s: float
    r: int
    arrival_s: float
    ttft_s: float
    tpot_s: float
    tier: int
    is_hidden: bool  # its stream, if there is one, does not tell of iterations
    input_tokens: int  # as was believed
    max_tokens: int
    expected_tokens: int = 0  # as its caller expects; 0: nobody said
    is_best_effort: bool = False  # it has no SLO; its times only order it among its kind
    actions: Sequence[Action] = ()


@dataclass(frozen=True, slots=True)
class Digest:
    """News of streams was applied: (request, tokens) seen, and (request, output tokens) of those that ended well."""

    now_s: float
    seen_s: float  # when the first of it came
    news: Pairs
    ended: Pairs
    actions: Sequence[Action] = ()


@dataclass(frozen=True, slots=True)
class Loss:
    """A request was over before its end."""

    now_s: float
    r: int
    actions: Sequence[Action] = ()


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed, and something changed by that."""

    now_s: float
    actions: Sequence[Action] = ()


@dataclass(frozen=True, slots=True)
class Closing:
    """An instance was closed, or opened."""

    now_s: float
    i: int
    reason: int
    actions: Sequence[Action] = ()


@dataclass(frozen=True, slots=True)
class Resizing:
    """An instance had another room for our requests."""

    now_s: float
    i: int
    kv_capacity_tokens: int
    max_residents: int
    actions: Sequence[Action] = ()


@dataclass(frozen=True, slots=True)
class Stay:
    """A request that was to be withdrawn went on at its instance."""

    now_s: float
    r: int
    i: int
    actions: Sequence[Action] = ()


@dataclass(frozen=True, slots=True)
class Resumption:
    """A request went on elsewhere with what its client had been sent."""

    now_s: float
    r: int
    prefill_tokens: int  # its prompt's, and of what was sent
    actions: Sequence[Action] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A request was given a record."""

    r: int


@dataclass(frozen=True, slots=True)
class Release:
    """The record of a refused request was given back."""

    r: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """A request is over. Times are 0 without a token, `prompt_tokens` is 0 where no engine told."""

    r: int
    outcome: str  # of OUTCOMES
    is_relegated: bool
    tier: int
    num_tries: int
    prompt_tokens: int
    output_tokens: int
    arrival_s: float
    ttft_s: float  # as granted; decisions are made with a little less
    first_s: float
    last_s: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The instance that a shadow policy would have taken; None when it would have refused."""

    r: int
    i: int | None


@dataclass(frozen=True, slots=True)
class Presence:
    """An instance joined, absent at first, or had left. What else that changes for decisions is in closings."""

    now_s: float
    i: int
    is_there: bool
    role: int  # what it may do, of `core.state`
    name: str


Input = Arrival | Digest | Loss | Tick | Closing | Stay | Resumption | Resizing
Record = Input | Entry | Release | Outcome | Choice | Presence
