"""For the gateway's tests: what decides live is compiled before any test's clock runs."""

from __future__ import annotations

import pytest

from polyslo.engines.emulation import warm_up as warm_up_engine
from polyslo.gateway.warmup import warm_up as warm_up_policy
from polyslo.profiles.library import DEFAULT_PROFILE, load_profile


@pytest.fixture(scope="session", autouse=True)
def compiled():
    """Compile; a real-time test would else wait for it and time out."""
    warm_up_policy()
    warm_up_engine(load_profile(DEFAULT_PROFILE))
