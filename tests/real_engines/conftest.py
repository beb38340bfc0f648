from __future__ import annotations

import pytest
from vllm_environment import VllmEnvironment, environment, why_not


@pytest.fixture(scope="session")
def vllm_environment() -> VllmEnvironment:
    """An environment with vLLM; tests that ask for it are skipped, with the reason, where there is none."""
    reason = why_not()
    if reason is not None:
        pytest.skip(f"real engines: {reason}")
    return environment()
