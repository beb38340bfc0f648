"""Where the real traces lie: beside the repository, or where POLYSLO_SHARED says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def shared_traces() -> Path:
    """Folder of the real traces; the test is skipped where it is not there."""
    folder = Path(os.environ.get("POLYSLO_SHARED", REPOSITORY.parent / "shared")) / "traces"
    if not folder.is_dir():
        pytest.skip(f"no real traces at {folder}; set POLYSLO_SHARED")
    return folder
