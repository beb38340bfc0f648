"""The page's files: which are written, that they are written whole or not at all, and how their figures look."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from drawn_texts import overlaps

from claims.synthetic import full_claims, losing, runs, synthetic_cell, synthetic_claims, winning
from polyslo.claims import figures
from polyslo.claims.page import write_page
from polyslo.claims.results import Cell
from polyslo.claims.shown import shown_runs
from polyslo.errors import ConfigError


def test_every_figure_that_the_page_names_is_written(tmp_path: Path) -> None:
    """Light and dark, and no file besides; nothing of the scratch is left."""
    write_page(full_claims(), None, tmp_path, runs=runs)
    text = (tmp_path / "claims.md").read_text(encoding="utf-8")
    named = set(re.findall(r'(?:src|srcset)="([^"]+)"', text))
    written = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert written == named | {"claims.md"}
    assert {
        "claims/goodput-co-light.svg",
        "claims/attainment-pd-sharegpt-dark.svg",
        "claims/gradient-dark.svg",
    } <= named


def test_what_can_not_be_drawn_is_left_out(tmp_path: Path) -> None:
    """A page without loads or the usual workloads has fewer figures and still every section."""
    cell = replace(synthetic_cell("burstgpt", is_quick=True), loads=(), tiers=())
    write_page(synthetic_claims(cell, is_quick=True), None, tmp_path, runs=runs)
    names = {file.name.rpartition("-")[0] for file in (tmp_path / "claims").iterdir()}
    assert names == {"goodput-co", "instances", "gradient"}


def test_a_write_that_fails_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether drawing or moving fails, the old files stay, and there is nothing new beside them."""
    write_page(winning(), None, tmp_path, runs=runs)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(figures, "save_figure", full)
        with pytest.raises(ConfigError, match="No space left on device"):
            write_page(losing(), None, tmp_path, runs=runs)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before

    moves = 0
    replace_file = Path.replace

    def fails_late(self: Path, target: Path) -> Path:
        nonlocal moves
        moves += 1
        if moves == 4:
            raise OSError(5, "Input/output error")
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", fails_late)
    with pytest.raises(ConfigError, match="Input/output error"):
        write_page(full_claims(), None, tmp_path, runs=runs)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_folder_in_the_pages_place_is_left_alone(tmp_path: Path) -> None:
    """Somebody's folder with the page's name is refused, not removed."""
    mine = tmp_path / "claims.md" / "mine"
    mine.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"claims\.md is a folder"):
        write_page(winning(), None, tmp_path, runs=runs)
    assert mine.is_dir()
    assert not (tmp_path / "claims" / "cost-light.svg").exists()


def test_other_files_in_the_figures_folder_are_left_alone(tmp_path: Path) -> None:
    """The folder may hold files that are not the page's."""
    other = tmp_path / "claims" / "notes.txt"
    other.parent.mkdir()
    other.write_text("mine")
    write_page(winning(), None, tmp_path, runs=runs)
    assert other.read_text() == "mine"


@pytest.mark.parametrize(
    "cells", [full_claims().cells, (synthetic_cell(best=(0.0, 0.0)),)], ids=["full", "no baseline"]
)
def test_no_label_of_a_figure_overlaps(cells: tuple[Cell, ...]) -> None:
    """Texts keep clear of each other and of the edges."""
    for drawn in figures.draw(synthetic_claims(*cells), runs()).values():
        assert overlaps(drawn.figure) == [], drawn.name


def test_equal_evaluations_give_equal_files(tmp_path: Path) -> None:
    """Bytes depend on the numbers alone."""
    for folder in ("one", "two"):
        write_page(winning(), None, tmp_path / folder, runs=runs)
    one, two = (sorted((tmp_path / name).rglob("*.*")) for name in ("one", "two"))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]


@pytest.mark.slow
def test_the_runs_that_are_shown_move_and_leave_instances_idle() -> None:
    """Under the mix that turns round the tightest tier grows; at light load most instances are idle."""
    found = shown_runs()
    moving, light = found.moving.timeline, found.light.timeline
    assert moving is not None
    assert light is not None
    assert moving.instances[0][-1] > moving.instances[0][len(moving.time_s) // 4]
    assert min(light.idle[len(light.time_s) // 4 :]) > found.light.num_instances // 3
