import numpy as np
import pytest

from polyslo.errors import InputError, TraceError
from polyslo.workload.burstiness import GAP_PROBABILITIES, Burstiness


def dispersion(arrival_s: np.ndarray, width_s: float) -> float:
    """Variance over mean of the counts per interval: 1 for Poisson at every width."""
    counts = np.bincount((arrival_s / width_s).astype(int))[:-1]
    return float(counts.var() / counts.mean())


def on_off(rng: np.random.Generator) -> np.ndarray:
    """Bursts of 20 requests on average in 1 s, with exponential silences of 9 s."""
    starts = np.cumsum(1 + rng.exponential(9.0, 500))
    starts = np.repeat(starts, rng.geometric(1 / 20, 500))
    return np.sort(starts + rng.uniform(0, 1, len(starts)))


def test_poisson_in_poisson_out() -> None:
    """A cascade fitted to Poisson arrivals draws Poisson arrivals: counts disperse by 1 at every scale."""
    source = np.cumsum(np.random.default_rng(0).exponential(1.0, 20_000))
    drawn = Burstiness.fit(source).draw(20_000, 1.0, np.random.default_rng(1))
    gaps = np.diff(drawn)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.03)
    for width_s in (1.0, 10.0, 60.0):
        assert dispersion(drawn, width_s) == pytest.approx(1.0, abs=0.35)


def test_on_off_arrivals_stay_on_off() -> None:
    """Bursts and silences are kept: the CV, the share of silent seconds, the dispersion by scale."""
    source = on_off(np.random.default_rng(0))
    rate_rps = (len(source) - 1) / (source[-1] - source[0])
    drawn = Burstiness.fit(source).draw(len(source), rate_rps, np.random.default_rng(1))
    gaps, source_gaps = np.diff(drawn), np.diff(source)
    assert gaps.std() / gaps.mean() == pytest.approx(source_gaps.std() / source_gaps.mean(), rel=0.1)
    silent, source_silent = (np.mean(np.bincount(times.astype(int)) == 0) for times in (drawn, source - source[0]))
    assert silent == pytest.approx(source_silent, abs=0.06)
    assert dispersion(drawn, 10.0) == pytest.approx(dispersion(source, 10.0), rel=0.6)


@pytest.mark.parametrize("num_requests", [1, 2, 63, 5000])
def test_drawn_rate_is_exact_and_starts_at_zero(num_requests: int) -> None:
    """Any number of requests has the asked mean rate exactly, so sweeps compare what they say."""
    model = Burstiness.fit(on_off(np.random.default_rng(0)))
    drawn = model.draw(num_requests, 40.0, np.random.default_rng(3))
    assert len(drawn) == num_requests
    assert drawn[0] == 0
    assert (np.diff(drawn) >= 0).all()
    assert drawn[-1] == pytest.approx((num_requests - 1) / 40.0)


def test_too_few_arrivals_are_refused() -> None:
    """A handful of arrivals says nothing about scales."""
    with pytest.raises(TraceError, match="needs 64 arrivals or more over a positive span, got 63"):
        Burstiness.fit(np.arange(63.0))
    with pytest.raises(TraceError, match="positive span"):
        Burstiness.fit(np.zeros(100))


def test_impossible_numbers_are_refused() -> None:
    """A file with numbers that no trace can have is not loaded."""
    gaps = tuple(float(i) for i in range(len(GAP_PROBABILITIES)))
    with pytest.raises(InputError, match="split_spreads must be >= 0 and below 1"):
        Burstiness(1, 0.0, (1.0,), 1.0, gaps)
    with pytest.raises(InputError, match="ascending gap_quantiles"):
        Burstiness(1, 0.0, (), 1.0, gaps[::-1])
    with pytest.raises(InputError, match="cascade_weight must be from 0 to 1"):
        Burstiness(1, 0.0, (), 1.5, gaps)
    with pytest.raises(InputError, match="top_gaps must be >= 1"):
        Burstiness(0, 0.0, (), 1.0, gaps)
