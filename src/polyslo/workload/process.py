"""Arrival processes by name, as `--arrivals` takes them: `poisson`, `fitted`, `gamma:CV`, `daily[:PEAK]`.

`daily` squeezes one whole day into what is drawn, from its quietest moment on; PEAK is the busiest moment's
rate over the mean. The processes themselves are in `arrivals` and `burstiness`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from polyslo.errors import InputError, nearest
from polyslo.workload.arrivals import AZURE_2024_PEAK_OVER_MEAN, PEAK_RANGE, check, gamma, one_day, poisson
from polyslo.workload.burstiness import Burstiness

CV_RANGE = (0.01, 100.0)  # beyond, gaps are all alike or nearly all zero
FORMS = ("poisson", "fitted", "gamma:CV", "daily[:PEAK]")
_KINDS = tuple(form.partition("[")[0].partition(":")[0] for form in FORMS)


@dataclass(frozen=True, slots=True)
class ArrivalProcess:
    """A kind of arrivals and its one parameter, where it has one: the CV of gamma gaps, or the day's peak."""

    kind: str
    parameter: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one of `FORMS`; raises `InputError` for another name or a parameter out of range."""
        kind, colon, parameter = text.partition(":")
        if kind not in _KINDS:
            raise InputError(f"arrivals: unknown process {text!r}{nearest(kind, _KINDS)} (forms: {', '.join(FORMS)})")
        if kind in ("poisson", "fitted"):
            if colon:
                raise InputError(f"arrivals: {kind} takes no parameter, got {text!r}; write {kind}")
            return cls(kind)
        if kind == "gamma":
            return cls(kind, _number(text, parameter, "the CV of gaps", "gamma:2.5", *CV_RANGE))
        if not colon:
            return cls(kind, AZURE_2024_PEAK_OVER_MEAN)
        return cls(kind, _number(text, parameter, "the peak over the mean", "daily:3", *PEAK_RANGE))

    def __str__(self) -> str:
        return self.kind if self.kind in ("poisson", "fitted") else f"{self.kind}:{self.parameter:g}"

    @property
    def peak_over_mean(self) -> float:
        """How many times the mean the rate itself gets to; bursts don't count."""
        return self.parameter if self.kind == "daily" else 1.0

    def draw(
        self, num_requests: int, rate_rps: float, rng: np.random.Generator, source: Burstiness | None = None
    ) -> NDArray[np.float64]:
        """Draw `num_requests` ascending times in seconds; `fitted` follows `source`, and is Poisson without."""
        check(num_requests, rate_rps)
        if self.kind == "gamma":
            return gamma(num_requests, rate_rps, self.parameter, rng)
        if self.kind == "daily":
            return one_day(num_requests, rate_rps, self.parameter, rng)
        if self.kind == "fitted" and source is not None:
            return source.draw(num_requests, rate_rps, rng)
        return poisson(num_requests, rate_rps, rng)


POISSON = ArrivalProcess("poisson")


def _number(text: str, parameter: str, what: str, example: str, low: float, high: float) -> float:
    try:
        value = float(parameter)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise InputError(
            f"arrivals: {what} must be a number from {low:g} to {high:g}, got {text!r}; write it as in {example}"
        )
    return value
