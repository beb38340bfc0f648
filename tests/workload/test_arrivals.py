from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyslo.errors import InputError
from polyslo.workload import arrivals
from polyslo.workload.process import ArrivalProcess

Process = Callable[[int, float, np.random.Generator], np.ndarray]
PROCESSES: dict[str, Process] = {
    "poisson": arrivals.poisson,
    "gamma": lambda n, rate, rng: arrivals.gamma(n, rate, 3.0, rng),
    "time_of_day": lambda n, rate, rng: arrivals.time_of_day(n, rate, rng, day_s=100.0),
}


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@settings(max_examples=30)
@given(num_requests=st.integers(1, 300), rate_rps=st.floats(0.01, 1e4), seed=st.integers(0, 2**32))
def test_times_ascend_and_repeat_by_seed(process: Process, num_requests: int, rate_rps: float, seed: int) -> None:
    """Every process gives the asked number of ascending finite times >= 0, the same for a seed."""
    times = process(num_requests, rate_rps, np.random.default_rng(seed))
    assert times.dtype == np.float64
    assert len(times) == num_requests
    assert np.isfinite(times).all()
    assert times[0] >= 0
    assert (np.diff(times) >= 0).all()
    assert (times == process(num_requests, rate_rps, np.random.default_rng(seed))).all()


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_gamma_has_its_rate_and_cv(cv: float) -> None:
    """The gaps of a gamma process have mean 1 / rate and the asked CV."""
    sizes = np.diff(arrivals.gamma(200_000, 50.0, cv, np.random.default_rng(1)))
    assert 1 / sizes.mean() == pytest.approx(50.0, rel=0.03)
    assert sizes.std() / sizes.mean() == pytest.approx(cv, rel=0.03)


def test_poisson_has_its_rate_and_cv_one() -> None:
    """The gaps of a Poisson process are exponential."""
    sizes = np.diff(arrivals.poisson(200_000, 50.0, np.random.default_rng(1)))
    assert 1 / sizes.mean() == pytest.approx(50.0, rel=0.01)
    assert sizes.std() / sizes.mean() == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("peak", [1.0, 2.0, 2.85, 10.0])
def test_tide_has_its_mean_and_peak(peak: float) -> None:
    """Over whole days the mean is the rate, the middle of the day has the peak, the start is quiet."""
    times = arrivals.time_of_day(400_000, 100.0, np.random.default_rng(2), peak_over_mean=peak, day_s=1000.0)
    assert np.count_nonzero(times < 3000.0) == pytest.approx(300_000, rel=0.01)
    per_bin = np.bincount((times % 1000.0 / 20).astype(int), minlength=50) / (len(times) / 50)
    assert per_bin.max() == pytest.approx(peak, rel=0.07)
    if peak > 1:
        assert per_bin.argmax() in range(22, 28)
        assert per_bin[0] < 0.7


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: arrivals.poisson(0, 1.0, rng), "num_requests must be >= 1, got 0"),
        (lambda rng: arrivals.poisson(1, -2.0, rng), "rate_rps must be > 0 and finite, got -2"),
        (lambda rng: arrivals.gamma(1, 1.0, 0.0, rng), "cv must be > 0 and finite, got 0"),
        (lambda rng: arrivals.time_of_day(1, 1.0, rng, 0.5), "peak_over_mean must be from 1 to 50, got 0.5"),
        (lambda rng: arrivals.time_of_day(1, 1.0, rng, 2.0, 0.0), "day_s must be > 0, got 0"),
    ],
)
def test_impossible_processes_are_refused(call: Callable[[np.random.Generator], np.ndarray], message: str) -> None:
    """Counts, rates, CVs and peaks out of range name what was got."""
    with pytest.raises(InputError, match=message):
        call(np.random.default_rng(0))


@pytest.mark.parametrize("text", ["poisson", "fitted", "gamma:2", "daily", "daily:4"])
def test_a_process_by_name_has_its_rate(text: str) -> None:
    """Every form draws ascending times at the mean rate; `daily` puts one whole day into them."""
    process = ArrivalProcess.parse(text)
    times = process.draw(50_000, 20.0, np.random.default_rng(3))
    assert (np.diff(times) >= 0).all()
    assert len(times) / times[-1] == pytest.approx(20.0, rel=0.1)  # a day's last request comes before its end
    middle = np.mean(np.abs(times / times[-1] - 0.5) < 0.01) / 0.02
    assert middle == pytest.approx(process.peak_over_mean, rel=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("poison", "did you mean 'poisson'"),
        ("dayly:3", "did you mean 'daily'"),
        ("poisson:2", "poisson takes no parameter"),
        ("gamma", "from 0.01 to 100, got 'gamma'"),
        ("gamma:nan", "from 0.01 to 100, got 'gamma:nan'"),
        ("gamma:inf", "from 0.01 to 100"),
        ("gamma:-1", "from 0.01 to 100"),
        ("daily:", "the peak over the mean must be a number from 1 to 50, got 'daily:'"),
        ("daily:0.5", "from 1 to 50, got 'daily:0.5'"),
    ],
)
def test_a_process_that_is_none_says_what_is_allowed(text: str, message: str) -> None:
    """Unknown names suggest the nearest; parameters out of range name the range."""
    with pytest.raises(InputError) as caught:
        ArrivalProcess.parse(text)
    assert message in str(caught.value)
