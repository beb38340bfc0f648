"""A profile that lacks points which its grid should have is refused, and what is missing is named (I14)."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from polyslo.core.extent import Extent
from polyslo.errors import ProfileError
from polyslo.profiles.library import load_profile, parse_profile, profile_text
from polyslo.profiles.roofline import Roofline

NAME = "llama-3.1-8b-h200-tp1"


def _shipped():
    return json.loads((files("polyslo.profiles") / "data" / f"{NAME}.json").read_text())


def _complaint(data):
    with pytest.raises(ProfileError) as caught:
        parse_profile(data, "mine", where="mine.json")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "column", "value", "key"),
    [
        ("decode", "decodes", 64, "decodes"),
        ("decode", "decodes", 1024, "decodes"),
        ("decode", "context", 1024, "contexts"),
        ("prefill", "chunk", 512, "chunks"),
        ("prefill", "prefix", 114_688, "prefixes"),
    ],
)
def test_a_row_or_column_that_is_gone_is_missed(kind, column, value, key):
    """I14: shipped profiles state their grid, so that a batch, context, chunk or prefix can't vanish."""
    data = _shipped()
    data[kind] = [row for row in data[kind] if row[column] != value]
    assert f"mine.json: {kind!r} has no point of {column}={value}, grid.{key} has" in _complaint(data)
    data["grid"][key].remove(value)
    assert parse_profile(data, "mine", where="mine.json")


def test_most_batches_gone_are_listed_in_short():
    """I14: the line stays a line."""
    data = _shipped()
    data["decode"] = [row for row in data["decode"] if row["decodes"] in (1, 1024)]
    assert "no point of decodes=2, 4, 8, 16 and 11 more" in _complaint(data)


@pytest.mark.parametrize("states_grid", [True, False])
def test_a_hole_between_points_is_found(states_grid):
    """I14: also where no grid is stated, for nearly all crossings are there."""
    data = _shipped()
    data["decode"] = [row for row in data["decode"] if (row["decodes"], row["context"]) not in ((64, 256), (8, 4096))]
    if not states_grid:
        del data["grid"]
    assert "'decode' has no point at decodes=8, context=4096 and 1 more, between points that it has" in _complaint(data)


def test_where_memory_ends_is_no_hole():
    """I14: large batches may end at shorter contexts than small ones."""
    data = _shipped()
    del data["grid"]
    data["decode"] = [row for row in data["decode"] if row["decodes"] * row["context"] <= 100_000]
    extent = parse_profile(data, "mine", where="mine.json").points.extent
    assert (extent.decodes, extent.kv_tokens) == (1024, 98_304)


def test_points_that_lie_on_no_grid_are_taken():
    """I14: contexts of a live engine differ from batch to batch; nothing can be said to be missing between them."""
    data = _shipped()
    del data["grid"]
    for row in data["decode"]:
        row["context"] += row["decodes"] % 61
    named = parse_profile(data, "mine", where="mine.json")
    grid = json.loads(profile_text(data))["grid"]
    assert len(grid["decodes"]) == len(set(named.points.decode[:, 0]))
    assert "contexts" not in grid
    assert "prefixes" in grid


def test_a_written_profile_states_its_grid():
    """I14: what is written down can't lose points unseen, and is read back."""
    content = Roofline.of("llama-3.1-8b", "l40s").content()
    written = json.loads(profile_text(content))
    assert written["grid"].keys() == {"decodes", "contexts", "chunks", "prefixes"}
    assert parse_profile(written, "mine", where="mine.json")
    written["prefill"] = [row for row in written["prefill"] if row["chunk"] != 8]
    assert "'prefill' has no point of chunk=8" in _complaint(written)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([1, 2], "'grid' must be an object with lists of numbers, got [1, 2]"),
        ({"decode": [1]}, "grid: unknown key 'decode'; did you mean 'decodes'?"),
        ({"decodes": 5}, "grid.decodes must be a list of numbers, got 5"),
        ({"decodes": ["1"]}, "grid.decodes must be a list of numbers, got ['1']"),
    ],
)
def test_a_grid_that_is_none_is_refused(grid, message):
    """I14: the key is named, with what was found."""
    assert f"mine.json: {message}" in _complaint(_shipped() | {"grid": grid})


@pytest.mark.parametrize(
    ("kind", "keep", "message"),
    [
        ("decode", lambda row: row["decodes"] == 1, "points of 1 batches (decodes), at least 2 are needed"),
        ("decode", lambda row: row["context"] == 64, "points of 1 contexts of the same batch, at least 2 are needed"),
        ("prefill", lambda row: row["chunk"] == 512, "points of 1 chunks, at least 2 are needed"),
    ],
)
def test_too_few_to_tell_how_times_grow(kind, keep, message):
    """I14: a single batch, context or chunk has no slope; it would be extrapolated flat."""
    data = _shipped()
    del data["grid"]
    data[kind] = [row for row in data[kind] if keep(row)]
    assert message in _complaint(data)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"decodes": 1, "context": 64, "ms": 4.79}, "has 2 points at decodes=1, context=64; one is allowed"),
        ({"decodes": 0, "context": 64, "ms": 4.0}, "decode[162].decodes must be a whole number from 1 to 10^9, got 0"),
        ({"decodes": 1.5, "context": 64, "ms": 4.8}, "decode[162].decodes must be a whole number from 1"),
        ({"decodes": 10**400, "context": 64, "ms": 4.8}, "decode[162].decodes must be a whole number from 1"),
        ({"decodes": 1, "context": True, "ms": 4.8}, "decode[162].context must be a number from 0 to 10^9, got True"),
    ],
)
def test_points_that_no_engine_has_are_refused(row, message):
    """I14: twice the same place, no batch, half a request, a number without measure."""
    data = _shipped()
    data["decode"].append(row)
    assert message in _complaint(data)


def test_only_what_lies_beyond_the_points_is_told():
    """Each quantity that passes the points, with both numbers; nothing where all lie inside."""
    named = load_profile(NAME)
    inside = named.points.extent
    assert named.extrapolations(inside) == ()
    further = Extent(2000, inside.kv_tokens, 1, inside.context_tokens + 1)
    assert named.extrapolations(further) == (
        "iterations were extrapolated beyond the points of profile llama-3.1-8b-h200-tp1: "
        "batches to 2,000 (points to 1,024), prefill contexts to 122,881 (points to 122,880)",
    )
    assert further.joined(inside) == Extent(2000, inside.kv_tokens, inside.chunk_tokens, inside.context_tokens + 1)
