"""How far a measurement can be trusted: do the same points give the same times, then and now?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

TRUSTED_REPEAT_RATIO = 0.05
TRUSTED_SPREAD_RATIO = 0.10


@dataclass(frozen=True, slots=True)
class Noise:
    """Spread of the parts of a point (half of their middle half), and how far points measured twice differ."""

    spread_median_ratio: float
    spread_p90_ratio: float
    repeat_median_ratio: float | None  # None: nothing was measured twice
    repeat_worst_ratio: float | None

    @classmethod
    def of(cls, spreads: list[float], pairs: list[tuple[float, float]]) -> Noise:
        """Judge spreads, and pairs of times of the same point."""
        repeats = [abs(second / first - 1.0) for first, second in pairs]
        return cls(
            spread_median_ratio=round(float(np.median(spreads)), 5),
            spread_p90_ratio=round(float(np.percentile(spreads, 90)), 5),
            repeat_median_ratio=round(float(np.median(repeats)), 5) if repeats else None,
            repeat_worst_ratio=round(float(np.max(repeats)), 5) if repeats else None,
        )

    @property
    def facts(self) -> Mapping[str, Any]:
        """For the profile's file."""
        return asdict(self)

    @property
    def warnings(self) -> list[str]:
        """Say what makes the measurement doubtful; nothing for a quiet machine."""
        found = []
        if self.repeat_median_ratio is not None and self.repeat_median_ratio > TRUSTED_REPEAT_RATIO:
            found.append(
                f"the same points differ by {self.repeat_median_ratio:.0%} (median) between the beginning and the end; "
                f"beyond {TRUSTED_REPEAT_RATIO:.0%} the machine is too noisy to trust: measure again when it is quiet"
            )
        if self.spread_p90_ratio > TRUSTED_SPREAD_RATIO:
            found.append(
                f"iterations of the same batch spread by {self.spread_p90_ratio:.0%} (p90); beyond "
                f"{TRUSTED_SPREAD_RATIO:.0%} medians are doubtful: look for other load on the machine"
            )
        return found
