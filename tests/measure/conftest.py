"""Shared by the tests of measuring: the profile that emulated engines keep to, and a short plan."""

from __future__ import annotations

import pytest

from polyslo.measure.plan import MeasurePlan
from polyslo.profiles.library import load_profile


@pytest.fixture(scope="session")
def profile():
    """Llama 3.1 8B on one H200."""
    return load_profile("llama-3.1-8b-h200-tp1").profile


@pytest.fixture
def plan():
    """Small batches and short prompts; the chunk has to be found out."""
    return MeasurePlan(max_context_tokens=4096, kv_capacity_tokens=60_000, max_decodes=16, num_steps=8, num_repeats=2)
