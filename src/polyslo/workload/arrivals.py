"""Arrival processes: Poisson, gamma renewal, and Poisson with a daily tide.

Each function draws `num_requests` ascending times in seconds, the first about one gap after 0, from a
`numpy.random.Generator`. Gamma gaps are what vLLM's benchmark offers as burstiness (its value is 1 / cv²).
Arrivals with the burstiness of a real trace come from `burstiness`; `process` chooses by name.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polyslo.errors import InputError

DAY_S = 86_400.0
PEAK_RANGE = (1.0, 50.0)  # of the busiest moment over the mean
AZURE_2024_PEAK_OVER_MEAN = 2.85  # busiest minute over mean, Azure 2024 week (published statistic)


def poisson(num_requests: int, rate_rps: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a Poisson process of `rate_rps`: independent exponential gaps, CV 1."""
    check(num_requests, rate_rps)
    return np.cumsum(rng.exponential(1.0 / rate_rps, num_requests))


def gamma(num_requests: int, rate_rps: float, cv: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a renewal process with gamma gaps of mean 1 / `rate_rps` and coefficient of variation `cv` > 0."""
    check(num_requests, rate_rps)
    if not cv > 0 or not np.isfinite(cv):
        raise InputError(f"arrivals: cv must be > 0 and finite, got {cv:g}; 1 is a Poisson process")
    return np.cumsum(rng.gamma(cv**-2, cv**2 / rate_rps, num_requests))


def time_of_day(
    num_requests: int,
    rate_rps: float,
    rng: np.random.Generator,
    peak_over_mean: float = AZURE_2024_PEAK_OVER_MEAN,
    day_s: float = DAY_S,
) -> NDArray[np.float64]:
    """Draw a Poisson process whose rate swings over a day of `day_s` seconds, from its quietest moment on.

    The rate is `rate_rps * exp(k cos(angle)) / I0(k)`: smooth, never zero, mean `rate_rps` over whole days,
    with k such that the peak is `peak_over_mean` >= 1 times the mean. A run of less than a day sees only a
    part of the tide: to see all of it in a short run, give a short `day_s`.
    """
    check(num_requests, rate_rps)
    if not PEAK_RANGE[0] <= peak_over_mean <= PEAK_RANGE[1]:
        raise InputError(f"arrivals: peak_over_mean must be from 1 to 50, got {peak_over_mean:g}")
    if not day_s > 0:
        raise InputError(f"arrivals: day_s must be > 0, got {day_s:g}")
    unit = np.cumsum(rng.exponential(1.0, num_requests)) / (rate_rps * day_s)  # in days of requests
    day = np.floor(unit)
    return day_s * (day + _moment(unit - day, peak_over_mean))


def one_day(num_requests: int, rate_rps: float, peak_over_mean: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the same tide with all requests in exactly one day, of `num_requests / rate_rps` seconds."""
    check(num_requests, rate_rps)
    return num_requests / rate_rps * _moment(np.sort(rng.random(num_requests)), peak_over_mean)


def _moment(share: NDArray[np.float64], peak_over_mean: float) -> NDArray[np.float64]:
    # the moment of the day, in [0, 1], up to which a share of its requests has arrived
    angle = np.linspace(-np.pi, np.pi, 2049)
    shape = np.exp(_concentration(peak_over_mean) * np.cos(angle))
    arrived = np.concatenate(([0.0], np.cumsum((shape[1:] + shape[:-1]) / 2)))
    return np.interp(share, arrived / arrived[-1], (angle + np.pi) / (2 * np.pi))


def _concentration(peak_over_mean: float) -> float:
    # exp(k) / I0(k) grows with k from 1 and passes 50 before k = 17,000; I0 overflows at k = 700, but its
    # asymptote sqrt(2 pi k) is within 0.1% of exp(k) / I0(k) from k = 200 on
    low, high = 0.0, 20_000.0
    for _ in range(60):
        middle = (low + high) / 2
        ratio = np.sqrt(2 * np.pi * middle) if middle > 200 else np.exp(middle) / np.i0(middle)
        low, high = (middle, high) if ratio < peak_over_mean else (low, middle)
    return high if high > 1e-9 else 0.0


def check(num_requests: int, rate_rps: float) -> None:
    """Raise `InputError` unless there is at least one request and a positive, finite rate."""
    if num_requests < 1:
        raise InputError(f"arrivals: num_requests must be >= 1, got {num_requests}")
    if not rate_rps > 0 or not np.isfinite(rate_rps):
        raise InputError(f"arrivals: rate_rps must be > 0 and finite, got {rate_rps:g}")
