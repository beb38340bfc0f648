"""Shared by the command line's tests: they stop before anything is simulated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from polyslo.cli.main import cli


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that calls `polyslo` in the empty folder; compiling or simulating fails the test."""

    def never(*args: object, **options: object) -> None:
        pytest.fail("this should have been refused before anything is compiled")

    for module in ("compare", "goodput", "plan"):
        monkeypatch.setattr(f"polyslo.sim.{module}.warm_up", never)
    monkeypatch.setattr("polyslo.cli.simulate.warm_up", never)
    return lambda *arguments: CliRunner().invoke(cli, list(arguments), prog_name="polyslo")
