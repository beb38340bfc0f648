"""A workload: a trace whose requests have been promised an SLO, as the simulator takes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Requests in order of arrival, each with its SLO; every array has length n >= 1 and is read-only.

    Token i of request r is due at `arrival_s[r] + ttft_s[r] + i * tpot_s[r]`. `tpots_s` are the TPOTs of the
    mix's tiers, ascending, also those that no request drew: `tier[r]` is the last with
    `tpots_s[tier[r]] <= tpot_s[r]`.
    """

    name: str
    arrival_s: NDArray[np.float64]  # [n] seconds, ascending
    input_tokens: NDArray[np.int32]  # [n] >= 1
    output_tokens: NDArray[np.int32]  # [n] >= 1
    ttft_s: NDArray[np.float64]  # [n] > 0, after raising those out of reach
    tpot_s: NDArray[np.float64]  # [n] > 0, what the request itself asks for
    tpots_s: tuple[float, ...]  # [K]
    tier: NDArray[np.int32]  # [n] index into tpots_s
    num_ttft_raised: int = 0  # requests whose drawn TTFT an idle instance could not meet
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def span_s(self) -> float:
        """Seconds from the first to the last arrival."""
        return float(self.arrival_s[-1] - self.arrival_s[0])

    @property
    def rate_rps(self) -> float:
        """Mean arrival rate, (n - 1) / span; NaN when all arrive at once."""
        return (len(self) - 1) / self.span_s if self.span_s > 0 else float("nan")
