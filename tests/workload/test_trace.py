import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyslo.errors import InputError, TraceError
from polyslo.workload.origin import Origin
from polyslo.workload.trace import Trace

gaps = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=40)


def trace_of(gap_list: list[float]) -> Trace:
    """Make a trace of these gaps, its prompts numbering the rows."""
    arrival_s = np.cumsum(gap_list)
    n = len(gap_list)
    return Trace.from_columns("t", arrival_s, np.arange(1, n + 1), np.arange(n, 0, -1))


def cv(arrival_s: np.ndarray) -> float:
    """Coefficient of variation of the gaps."""
    sizes = np.diff(arrival_s)
    return float(sizes.std() / sizes.mean())


@given(gaps, st.floats(1e-2, 1e4))
def test_scaling_keeps_burstiness_and_sets_the_rate(gap_list: list[float], rate_rps: float) -> None:
    """`at_rate` gives the asked rate and leaves the CV of the gaps, the order and the lengths alone."""
    trace = trace_of(gap_list)
    scaled = trace.at_rate(rate_rps)
    assert scaled.rate_rps == pytest.approx(rate_rps)
    assert cv(scaled.arrival_s) == pytest.approx(cv(trace.arrival_s), abs=1e-6)
    assert (scaled.input_tokens == trace.input_tokens).all()


@given(gaps, st.integers(1, 200), st.integers(0, 5))
def test_repeating_gives_the_count_in_order_and_the_rate(gap_list: list[float], count: int, seed: int) -> None:
    """`repeated` has exactly the asked number of requests, ascending, and begins with the trace itself."""
    trace = trace_of(gap_list)
    tiled = trace.repeated(count, seed)
    first = min(count, len(trace))
    assert len(tiled) == len(tiled.arrival_s) == count
    assert (np.diff(tiled.arrival_s) >= 0).all()
    assert (tiled.arrival_s[:first] == trace.arrival_s[:first]).all()
    whole = trace.repeated(20 * len(trace), seed)
    assert whole.rate_rps == pytest.approx(trace.rate_rps, rel=0.25)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40))
def test_any_order_of_arrivals_is_sorted_from_zero(times: list[float]) -> None:
    """Rows keep their lengths when sorted: each request still has its own."""
    trace = Trace.from_columns("t", times, np.arange(1, len(times) + 1), np.ones(len(times)))
    assert trace.arrival_s[0] == 0
    assert (np.diff(trace.arrival_s) >= 0).all()
    assert trace.arrival_s == pytest.approx(np.asarray(times)[trace.input_tokens - 1] - min(times))


def test_sorting_is_told() -> None:
    """A trace whose arrivals were out of order says how many were."""
    trace = Trace.from_columns("t", [3.0, 1.0, 2.0, 0.5], [1, 2, 3, 4], [1, 1, 1, 1])
    assert trace.notices == ("2 arrivals were out of order: sorted",)
    assert trace.input_tokens.tolist() == [4, 2, 3, 1]


def test_repeating_is_deterministic_and_invents_no_cache_hits() -> None:
    """The same seed tiles alike; blocks and sessions of different copies are never equal."""
    trace = Trace.from_columns(
        "t",
        [0.0, 1.0, 2.0],
        [1, 2, 3],
        [1, 1, 1],
        prefix_hash_ids=[[0, 1], [0], [7]],
        session_id=["a", "b", "a"],
    )
    tiled = trace.repeated(9, seed=4)
    again = trace.repeated(9, seed=4)
    assert (tiled.arrival_s == again.arrival_s).all()
    assert tiled.prefix_hash_ids is not None
    assert tiled.session_id is not None
    copies = [{int(b) for ids in tiled.prefix_hash_ids[i : i + 3] for b in ids} for i in (0, 3, 6)]
    assert not copies[0] & copies[1]
    assert not copies[1] & copies[2]
    assert len(set(tiled.session_id.tolist())) == 6
    assert tiled.notices == ("3 requests repeated to 9",)


def test_head_cuts_every_column() -> None:
    """`head` keeps the first rows of all columns, and all rows when there are fewer."""
    trace = Trace.from_columns(
        "t", [0.0, 1.0, 2.0], [1, 2, 3], [1, 1, 1], prefix_hash_ids=[[1], [2], [3]], client_id=[5, 6, 7]
    )
    head = trace.head(2)
    assert len(head) == 2
    assert head.client_id is not None
    assert head.client_id.tolist() == [5, 6]
    assert head.prefix_hash_ids is not None
    assert len(head.prefix_hash_ids) == 2
    assert len(trace.head(10)) == 3


def test_lengths_only_until_given_arrivals() -> None:
    """A trace without times has no rate and can't be scaled; `with_arrivals` gives it a clock."""
    trace = Trace.from_columns("t", None, [1, 2], [1, 2])
    assert not trace.has_arrivals
    assert np.isnan(trace.rate_rps)
    with pytest.raises(TraceError, match="draw arrivals and use with_arrivals"):
        trace.at_rate(1.0)
    timed = trace.with_arrivals([5.0, 9.0])
    assert timed.has_arrivals
    assert timed.arrival_s.tolist() == [0.0, 4.0]
    assert timed.span_s == 4.0
    assert timed.rate_rps == 0.25


def test_jitter_spreads_a_coarse_clock() -> None:
    """Jitter moves arrivals by less than a step, keeps them sorted and is the same for a seed."""
    trace = Trace.from_columns("t", np.repeat([0.0, 3.0, 6.0], 50), np.arange(1, 151), np.ones(150))
    spread = trace.jittered(3.0, seed=1)
    assert (np.diff(spread.arrival_s) > 0).all()
    assert spread.span_s < 9.0
    assert (np.sort(spread.input_tokens) == trace.input_tokens).all()
    assert (spread.arrival_s == trace.jittered(3.0, seed=1).arrival_s).all()


@pytest.mark.parametrize(
    ("arrival_s", "inputs", "outputs", "message"),
    [
        ([0.0, -1.0], [1, 1], [1, 1], "f.csv, line 3, column TS: arrival must be >= 0 s and finite, got -1"),
        (
            [0.0, np.nan],
            [1, 1],
            [1, 1],
            "f.csv, line 3, column TS: arrival must be >= 0 s and finite, got nan",
        ),
        ([0.0, 1.0], [1, 0], [1, 1], "f.csv, line 3, column In: input_tokens must be a whole number from 1"),
        ([0.0, 1.0], [1, 1], [-4, 1], "f.csv, line 2, column output_tokens: output_tokens must be a whole"),
        ([0.0, 1.0], [1, 2.5], [1, 1], "10,000,000, got 2.5; correct or remove the row"),
        ([0.0], [1, 1], [1, 1], "f.csv: 2 requests but 1 arrival times"),
        ([], [], [], "f.csv: no requests; a trace needs at least one row"),
    ],
)
def test_bad_values_are_named(arrival_s: list[float], inputs: list[float], outputs: list[float], message: str) -> None:
    """Every impossible value is refused with file, line, column, the value found and what to do."""
    origin = Origin("f.csv", [2, 3], {"arrival_s": "TS", "input_tokens": "In"})
    with pytest.raises(TraceError) as caught:
        Trace.from_columns("f", arrival_s, inputs, outputs, origin=origin)
    assert message in str(caught.value)


def test_impossible_requests_to_a_trace_are_refused() -> None:
    """Rates and counts must be positive."""
    trace = Trace.from_columns("t", [0.0, 1.0], [1, 2], [1, 2])
    with pytest.raises(InputError, match="rate_rps must be > 0 and finite, got 0"):
        trace.at_rate(0.0)
    with pytest.raises(InputError, match="num_requests must be >= 1, got 0"):
        trace.head(0)
    with pytest.raises(InputError, match="jitter must be > 0 s"):
        trace.jittered(0.0, seed=0)
