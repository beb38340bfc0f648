"""What to send when: a workload on the clock of the endpoint.

An emulated engine may run slower than the one that it stands for: at `speed` 0.1 all that takes it a second took
the original 0.1 s. Arrivals and SLOs are then stretched by 1 / `speed`, and results are scaled back, so that plans
and results are in the time of the original and only what goes over the wire is in the clock's own. The window that
is scored is the simulator's, so that both can be compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from polyslo.errors import ConfigError
from polyslo.sim.run import COOLDOWN_RATIO, WARMUP_RATIO
from polyslo.workload.slo import SloMix, lay
from polyslo.workload.trace import Trace
from polyslo.workload.workload import Workload


@dataclass(frozen=True, slots=True, eq=False)
class LoadPlan:
    """Requests in order of sending, their SLOs on the endpoint's clock, and which of them are scored.

    Arrays have length n and are read-only. Token i of request r is due at
    `send_s[r] + ttft_s[r] + i * tpot_s[r]`, in seconds of the endpoint's clock from the start of the replay.
    """

    workload: Workload
    speed: float
    send_s: NDArray[np.float64]  # [n] ascending, the first is 0
    ttft_s: NDArray[np.float64]  # [n]
    tpot_s: NDArray[np.float64]  # [n]
    is_scored: NDArray[np.bool_]  # [n]
    window_s: float  # length of the scored window, in the workload's time

    @classmethod
    def of(
        cls,
        workload: Workload,
        *,
        speed: float = 1.0,
        warm_up_ratio: float = WARMUP_RATIO,
        cool_down_ratio: float = COOLDOWN_RATIO,
    ) -> Self:
        """Plan a replay of `workload`; shares of its span at both ends are sent and not scored.

        Raises `ConfigError` for a speed that is not > 0 and for shares that leave nothing to score.
        """
        if not 0 < speed < math.inf:
            raise ConfigError(f"load: speed must be finite and > 0, got {speed:g}; set --speed")
        if not (min(warm_up_ratio, cool_down_ratio) >= 0 and warm_up_ratio + cool_down_ratio < 1):
            raise ConfigError(
                f"load: warm-up and cool-down must be >= 0 and leave a part to score, got {warm_up_ratio:g} and "
                f"{cool_down_ratio:g} of the span; set --warm-up"
            )
        at_s = workload.arrival_s - workload.arrival_s[0]
        span_s = workload.span_s
        start_s, end_s = warm_up_ratio * span_s, (1 - cool_down_ratio) * span_s
        return cls(
            workload=workload,
            speed=speed,
            send_s=at_s / speed,
            ttft_s=workload.ttft_s / speed,
            tpot_s=workload.tpot_s / speed,
            is_scored=(at_s >= start_s) & (at_s <= end_s),
            window_s=end_s - start_s,
        )

    def __len__(self) -> int:
        return len(self.send_s)

    @property
    def tightest_tpot_s(self) -> float:
        """The smallest TPOT of any request, on the endpoint's clock."""
        return float(self.tpot_s.min())


def with_drawn_ttfts(workload: Workload, mix: SloMix, seed: int) -> Workload:
    """Return the workload with the TTFTs that `mix` draws for `seed`, also those that no instance could meet.

    `seed` and `mix` must be those that it was drawn with: the draws are repeated without raising.
    """
    trace = Trace(workload.name, workload.arrival_s, workload.input_tokens, workload.output_tokens)
    drawn = lay(trace, mix, seed, lambda input_tokens: np.zeros(len(input_tokens)))
    return replace(drawn, notices=workload.notices)
