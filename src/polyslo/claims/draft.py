"""A workload in one mode while the evaluation is finding out about it."""

from __future__ import annotations

from dataclasses import dataclass

from polyslo.claims.cases import Case
from polyslo.claims.work import Found
from polyslo.sim.setting import Setting

TUNING_RATIO = 0.3  # length of the runs that choose parameters, or ablate, of those that are scored


@dataclass(slots=True, eq=False)
class Draft:
    """A cell while it is being found out."""

    case: Case
    setting: Setting
    optimum_rps: float
    duration_s: float
    tuned: dict[str, Found]  # every variant, short runs
    tried: dict[str, Found]  # polyserve and the chosen variants
    chosen: dict[tuple[str, float], str]  # (family, target) -> its best variant

    def tuning_length_s(self, *, quick: bool = False) -> float:
        """Return the length of short runs; quick, all have the same."""
        return self.duration_s if quick else round(TUNING_RATIO * self.duration_s, 1)
