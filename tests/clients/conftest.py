"""For tests of other people's clients: the gateway's own bench, compiled before any client's clock runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "gateway"))  # gateway_bench

from polyslo.engines.emulation import warm_up as warm_up_engine
from polyslo.gateway.warmup import warm_up as warm_up_policy
from polyslo.profiles.library import DEFAULT_PROFILE, load_profile


@pytest.fixture(scope="session", autouse=True)
def compiled():
    """Compile; a client would else wait for it and time out."""
    warm_up_policy()
    warm_up_engine(load_profile(DEFAULT_PROFILE))
