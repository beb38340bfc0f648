"""A profile that can't be trusted is refused, in one line (I14)."""

from __future__ import annotations

import json

import pytest

from polyslo.errors import ProfileError
from polyslo.profiles.library import load_profile, parse_profile


def _sound():
    return {
        "kv_capacity_tokens": 100_000,
        "kv_bytes_per_token": 131_072,
        "decode": [
            {"decodes": n, "context": c, "ms": 5 + 0.01 * n + 1e-4 * n * c}
            for n in (1, 8, 64)
            for c in (128, 1024, 4096)
        ],
        "prefill": [
            {"chunk": c, "prefix": p, "ms": 5 + 0.01 * c + 1e-7 * c * (p + c / 2)}
            for c in (64, 512, 4096)
            for p in (0, 1000, 4000)
        ],
    }


def _refused(data, *parts):
    with pytest.raises(ProfileError) as caught:
        parse_profile(data, "mine", where="mine.json")
    message = str(caught.value)
    assert "\n" not in message
    assert "mine.json" in message
    for part in parts:
        assert part in message, message


def test_made_up_points_give_back_their_law():
    """I14: a sound file is taken, and 5 ms + 0.01 ms a token + 1e-7 ms a pair comes back at a point it lacks."""
    profile = parse_profile(_sound(), "mine", where="mine.json").profile
    expected_ms = 5 + 0.01 * 2000 + 1e-7 * 2000 * 1500
    assert profile.iteration_s(0, 2000, 0, 1500.0) * 1e3 == pytest.approx(expected_ms, rel=0.01)
    assert profile.iteration_s(8, 0, 8 * 128, 0.0) * 1e3 == pytest.approx(5 + 0.08 + 0.1024, rel=0.01)


def test_two_contexts_are_enough_to_extrapolate():
    """I14: with contexts 128 and 1,024 the slope between them goes on beyond them."""
    data = _sound()
    data["decode"] = [row for row in data["decode"] if row["context"] < 4096]
    profile = parse_profile(data, "mine", where="mine.json").profile
    assert profile.iteration_s(64, 0, 64 * 2048, 0.0) * 1e3 == pytest.approx(5.64 + 13.1072, rel=0.01)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, 0, None, "5"])
def test_a_hole_is_refused_and_named(bad):
    """I14: a time that is no finite number > 0 is refused with its list, row and column."""
    data = _sound()
    data["decode"][2]["ms"] = bad
    _refused(data, "decode[2].ms")


def test_a_missing_column_is_refused():
    """I14: a row without its chunk is refused."""
    data = _sound()
    del data["prefill"][1]["chunk"]
    _refused(data, "prefill[1].chunk")


@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_missing_points_are_refused(kind):
    """I14: a file without decode or prefill points is refused."""
    data = _sound()
    del data[kind]
    _refused(data, kind, "at least 4")


@pytest.mark.parametrize("key", ["kv_capacity_tokens", "kv_bytes_per_token"])
@pytest.mark.parametrize("bad", [None, 0, -5, "many"])
def test_a_missing_size_is_refused(key, bad):
    """I14: KV capacity and KV bytes must be stated, as numbers > 0."""
    data = _sound()
    data[key] = bad
    _refused(data, key)


def test_falling_times_are_refused():
    """I14: a larger batch that measured less than 90% of a smaller one is refused."""
    data = _sound()
    data["prefill"][-1]["ms"] = 20.0
    _refused(data, "fall")


def test_a_small_dip_is_taken_for_noise():
    """I14: 5% less time for a larger batch is taken, and levelled out."""
    data = _sound()
    row = next(row for row in data["decode"] if row["decodes"] == 8 and row["context"] == 128)
    row["ms"] = 0.96 * 5.0228
    profile = parse_profile(data, "mine", where="mine.json").profile
    assert profile.iteration_s(8, 0, 1024, 0.0) >= profile.iteration_s(1, 0, 1024, 0.0)


@pytest.mark.parametrize("data", [[], None, 5, "text"])
def test_something_other_than_an_object_is_refused(data):
    """I14: a JSON list or number is no profile."""
    _refused(data, "object")


def test_text_that_is_not_json_is_refused_with_its_place(tmp_path):
    """I14: file, line and column of the first thing that is not JSON."""
    path = tmp_path / "broken.json"
    path.write_text('{"decode": [\n  oops ]}')
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    assert f"{path}:2:3" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_refused(tmp_path):
    """I14: a path that can't be read is named."""
    with pytest.raises(ProfileError, match=r"absent\.json.*can't be read"):
        load_profile(tmp_path / "absent.json")


def test_an_unknown_name_suggests_the_nearest():
    """I14: `llama-3.1-8b-h200` suggests `llama-3.1-8b-h200-tp1`."""
    with pytest.raises(ProfileError, match=r"llama-3\.1-8b-h200-tp1") as caught:
        load_profile("llama-3.1-8b-h200")
    assert "\n" not in str(caught.value)


def test_a_file_loads_like_a_shipped_one(tmp_path):
    """I14: the same content from a path gives a profile named after the file."""
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(_sound() | {"model": "made-up"}))
    named = load_profile(path)
    assert named.name == "mine"
    assert named.facts["model"] == "made-up"
