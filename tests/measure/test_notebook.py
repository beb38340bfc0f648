"""The state of a measurement: kept, taken up again, never mixed with another's."""

from __future__ import annotations

import pytest

from polyslo.errors import InputError
from polyslo.measure.doubt import doubtful_tasks, lesser
from polyslo.measure.notebook import Notebook


def test_another_plans_state_is_refused(tmp_path):
    """The message names what differs and the way out; --restart begins anew."""
    file = tmp_path / "mine.json.measuring"
    Notebook(file, {"url": "http://a", "max_decodes": 8}).write("chunk", 512)
    with pytest.raises(InputError, match=r"with max_decodes 8 instead of 16.*--restart"):
        Notebook(file, {"url": "http://a", "max_decodes": 16})
    assert Notebook(file, {"url": "http://a", "max_decodes": 16}, restart=True).done == {}


def test_a_line_cut_short_is_dropped_and_written_over(tmp_path):
    """What comes after it can be read again."""
    file = tmp_path / "state"
    Notebook(file, {}).write("a", 1)
    with file.open("a") as lines:
        lines.write('{"task": "b", "fou')
    again = Notebook(file, {})
    assert again.done == {"a": 1}
    again.write("c", 3)
    assert Notebook(file, {}).done == {"a": 1, "c": 3}


def test_points_that_fall_are_measured_again_with_what_they_fall_from():
    """A larger batch can't be faster than a smaller one: either may have been disturbed."""
    done = {
        "context of 64": {"decode": [[1, 80, 5.0, 0.0], [2, 80, 7.0, 0.0], [4, 80, 6.0, 0.0]], "mixed": []},
        "context of 256": {"decode": [[1, 300, 5.1, 0.0], [2, 300, 7.1, 0.0], [4, 300, 7.2, 0.0]], "mixed": []},
        "chunk of 16": {"prefill": [[17, 0, 5.0, 0.02]]},
        "chunk of 64": {"prefill": [[65, 0, 6.0, 0.3]]},
    }
    assert doubtful_tasks(done) == {"context of 64", "chunk of 64"}


def test_the_lesser_time_of_a_point_is_kept():
    """Points are the same by batch and chunk, whatever their context; one that is missing changes nothing."""
    first = {"decode": [[4, 80, 9.0, 0.2], [2, 90, 5.0, 0.0]], "mixed": [[128, 4, 85, 12.0, 0.1]]}
    again = {"decode": [[4, 82, 6.0, 0.1]], "mixed": [[128, 4, 86, 13.0, 0.0]]}
    assert lesser(first, again) == {
        "decode": [[4, 82, 6.0, 0.1], [2, 90, 5.0, 0.0]],
        "mixed": [[128, 4, 85, 12.0, 0.1]],
    }
