"""The requests of a journal: when they arrived, what they asked for, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from polyslo.gateway.journal.records import OUTCOMES, Arrival, Loss, Outcome, Record
from polyslo.gateway.relays.listeners import NOBODYS_MISS

_Key = tuple[float, int, int]


@dataclass(slots=True)
class SeenRequest:
    """A request; without an outcome it was under way when the journal ended."""

    arrival: Arrival  # the first: one that failed before its first token arrives again
    outcome: Outcome | None = None
    num_arrivals: int = 1


class RequestsSeen:
    """Gathers requests from records, over one file or several that follow each other."""

    def __init__(self) -> None:
        self.requests: list[SeenRequest] = []
        self.num_from_before = 0  # ended in the journal, but arrived before it
        self._run = ""
        self._holder: dict[int, SeenRequest] = {}  # by record
        self._lost: dict[_Key, SeenRequest] = {}  # taken from an instance, without an outcome yet

    def begin(self, run: str) -> None:
        """Begin a file; records of another process are others."""
        if run != self._run:
            self._run = run
            self._holder.clear()
            self._lost.clear()

    def take(self, record: Record) -> None:
        """Take note of a record."""
        if isinstance(record, Arrival):
            self._arrive(record)
        elif isinstance(record, Loss):
            lost = self._holder.get(record.r)
            if lost is not None and lost.outcome is None:
                self._lost[_key(lost.arrival)] = lost
        elif isinstance(record, Outcome):
            self._end(record)

    def _arrive(self, arrival: Arrival) -> None:
        again = self._lost.pop(_key(arrival), None)  # sent to another instance
        if again is None:
            again = SeenRequest(arrival)
            self.requests.append(again)
        else:
            again.num_arrivals += 1
        self._holder[arrival.r] = again

    def _end(self, outcome: Outcome) -> None:
        """Find whose outcome it is: its record's holder, unless the record is in use again already."""
        held = self._holder.get(outcome.r)
        if held is None or held.arrival.arrival_s != outcome.arrival_s or held.outcome is not None:
            lost = (seen for seen in self._lost.values() if seen.arrival.arrival_s == outcome.arrival_s)
            held = next(lost, None)
        if held is None:
            self.num_from_before += 1
            return
        held.outcome = outcome
        self._lost.pop(_key(held.arrival), None)


@dataclass(slots=True)
class LiveScore:
    """How the requests of a tier fared, or all. Cancelled and rejected ones count for nothing."""

    tpot_ms: float | None  # of the tier; None for all
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    num_relegated: int = 0  # served, but after all others: missed, or failed, or on time by luck
    num_served_late: int = 0  # of the relegated
    num_open: int = 0
    ttfts_s: list[float] = field(default_factory=list)  # of the attained and missed
    tpots_s: list[float] = field(default_factory=list)

    @property
    def num_requests(self) -> int:
        """Requests that ended, whatever became of them, but for what is nobody's miss: see `listeners`."""
        return sum(count for outcome, count in self.counts.items() if outcome not in NOBODYS_MISS)

    @property
    def attainment(self) -> float:
        """Share of them whose every token was on time; NaN without any."""
        return self.counts["attained"] / self.num_requests if self.num_requests else float("nan")

    def add(self, seen: SeenRequest) -> None:
        """Count a request."""
        outcome = seen.outcome
        if outcome is None:
            self.num_open += 1
            return
        self.counts[outcome.outcome] += 1
        self.num_relegated += outcome.is_relegated
        if outcome.outcome not in ("attained", "missed") or not outcome.output_tokens:
            return
        self.num_served_late += outcome.is_relegated
        self.ttfts_s.append(outcome.first_s - outcome.arrival_s)
        if outcome.output_tokens > 1 and not seen.arrival.is_hidden:
            self.tpots_s.append((outcome.last_s - outcome.first_s) / (outcome.output_tokens - 1))

    def ttft_s(self, share: float) -> float:
        """Return a quantile of the TTFTs; NaN without any."""
        return _quantile(self.ttfts_s, share)

    def tpot_s(self, share: float) -> float:
        """Return a quantile of the mean TPOTs of streams; NaN without any."""
        return _quantile(self.tpots_s, share)


def live_scores(requests: Iterable[SeenRequest], tpots_s: Iterable[float]) -> list[LiveScore]:
    """Score requests by tier, tightest first; the last is of all. Best effort has no score."""
    scores = [LiveScore(round(1e3 * tpot_s, 6)) for tpot_s in tpots_s]
    total = LiveScore(None)
    for seen in requests:
        if seen.arrival.is_best_effort:
            continue
        scores[seen.arrival.tier].add(seen)
        total.add(seen)
    return [*scores, total]


def _quantile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share)) if values else float("nan")


def _key(arrival: Arrival) -> _Key:
    return arrival.arrival_s, arrival.tier, arrival.input_tokens
