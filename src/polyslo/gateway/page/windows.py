"""What happened to a tier's requests lately: five-second buckets for the last five minutes, and recent times."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

BUCKET_S = 5.0
NUM_BUCKETS = 60
MINUTE_BUCKETS = 12
MOST_SAMPLES = 1000


@dataclass(slots=True)
class Bucket:
    """Requests that ended in five seconds, and how the tier stood at their end."""

    requests: int = 0
    attained: int = 0
    instances: int = 0
    pending: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One request's times."""

    at_s: float
    ttft_s: float
    tpot_s: float


class TierWindow:
    """The last minutes of one tier."""

    def __init__(self, now_s: float) -> None:
        self.buckets: deque[Bucket] = deque([Bucket() for _ in range(NUM_BUCKETS)], maxlen=NUM_BUCKETS)
        self._samples: deque[Sample] = deque(maxlen=MOST_SAMPLES)
        self._until_s = now_s + BUCKET_S

    def advance(self, now_s: float, instances: int, pending: int) -> None:
        """Close the buckets whose time is over; the open one stands as the tier stands now."""
        while now_s >= self._until_s:
            self.buckets.append(Bucket())
            self._until_s += BUCKET_S
        self.buckets[-1].instances, self.buckets[-1].pending = instances, pending

    def add(self, *, attained: bool) -> None:
        """Count a request that ended."""
        self.buckets[-1].requests += 1
        self.buckets[-1].attained += attained

    def measure(self, at_s: float, ttft_s: float, tpot_s: float) -> None:
        """Keep a request's times."""
        self._samples.append(Sample(at_s, ttft_s, tpot_s))

    def count(self, num_buckets: int) -> tuple[int, int]:
        """Return (requests, attained) over the last buckets."""
        last = list(islice(self.buckets, NUM_BUCKETS - num_buckets, None))
        return sum(b.requests for b in last), sum(b.attained for b in last)

    def ttfts_s(self, since_s: float) -> list[float]:
        """Return the TTFTs of requests that ended since then, ascending."""
        return sorted(sample.ttft_s for sample in self._samples if sample.at_s >= since_s)

    def tpots_s(self, since_s: float) -> list[float]:
        """Return their mean TPOTs, ascending; those of single tokens are left out."""
        return sorted(sample.tpot_s for sample in self._samples if sample.at_s >= since_s and sample.tpot_s > 0)


def quantile(ascending: Sequence[float], share: float) -> float | None:
    """Return the value below which a share lies; None of nothing."""
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))] if ascending else None
