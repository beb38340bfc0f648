"""What `Setting` draws, and what it tells about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polyslo.errors import InputError
from polyslo.sim.setting import Setting

TIMED = "arrival_s,input_tokens,output_tokens\n0,10,5\n1,20,5\n5,30,5\n"
LENGTHS = "input_tokens,output_tokens\n10,5\n20,5\n30,5\n"


@pytest.fixture
def write(tmp_path: Path):
    """Return a function that writes a trace file."""

    def file(text: str) -> Path:
        (tmp_path / "t.csv").write_text(text)
        return tmp_path / "t.csv"

    return file


def test_a_trace_keeps_its_arrivals_unless_others_are_asked_for(write) -> None:
    """By default the trace's gaps stay in proportion; `arrivals` replaces them, and a notice says so."""
    file = write(TIMED)
    own = Setting.of(trace=file).workload(3.0, 0, duration_s=1.0)
    assert np.diff(own.arrival_s)[1] == pytest.approx(4 * np.diff(own.arrival_s)[0])
    assert own.notices == ()
    replaced = Setting.of(trace=file, arrivals="gamma:2").workload(3.0, 0, duration_s=1.0)
    assert replaced.notices == ("the arrivals of trace 't' are replaced, as asked for: gamma:2",)
    assert not np.allclose(own.arrival_s, replaced.arrival_s)


@pytest.mark.parametrize(("arrivals", "drawn"), [(None, "poisson"), ("daily:3", "daily:3")])
def test_a_trace_of_lengths_gets_the_arrivals_asked_for(write, arrivals: str | None, drawn: str) -> None:
    """Without a word they are Poisson; either way a notice names the process."""
    setting = Setting.of(trace=write(LENGTHS), arrivals=arrivals)
    assert setting.workload(3.0, 0, duration_s=1.0).notices == (f"trace 't' has no arrivals: {drawn} arrivals drawn",)


def test_fitted_arrivals_of_a_trace_are_refused(write) -> None:
    """`fitted` names the burstiness of a fitted workload: a trace has its own arrivals."""
    with pytest.raises(InputError, match="leave it out to keep the trace's own"):
        Setting.of(trace=write(TIMED), arrivals="fitted")


def test_a_day_is_sized_by_its_peak() -> None:
    """The rate at which the peak meets the fluid optimum is the optimum over the peak."""
    assert Setting.of(arrivals="daily:4").full_rps() == pytest.approx(Setting.of().optimum_rps() / 4)


def test_what_was_done_to_a_trace_is_told(write) -> None:
    """Sorting, repeating and replaced arrivals are each a notice, in the order in which they were done."""
    file = write("arrival_s,input_tokens,output_tokens\n0,10,5\n9,20,5\n5,30,5\n")
    assert Setting.of(trace=file, arrivals="daily").notices(20.0, 10.0) == (
        "1 arrivals were out of order: sorted",
        "3 requests repeated to 200",
        "the arrivals of trace 't' are replaced, as asked for: daily:2.85",
    )
