"""What policy a fleet gets, by its engines' chunk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polyslo.errors import ConfigError
from polyslo.gateway.config.gateway import GatewayConfig
from polyslo.gateway.live_policy import live_policy, why_fallback
from polyslo.profiles.library import DEFAULT_PROFILE, load_profile

TIERS_S = (0.02, 0.05)


@pytest.fixture(scope="module")
def profile():
    """Llama 3.1 8B on one H200."""
    return load_profile(DEFAULT_PROFILE).profile


@pytest.fixture
def model():
    """One model on two stock engines, everything else default."""
    return GatewayConfig.of_worker_urls(["http://127.0.0.1:1", "http://127.0.0.1:2"]).models[0]


def test_engines_that_size_their_chunks_get_polyserve_whole(model, profile):
    """Nothing is switched off."""
    spec = live_policy(replace(model, dynamic_chunking=True), profile, TIERS_S)
    assert (spec.name, spec.without) == ("polyserve", frozenset())


def test_stock_engines_with_a_small_chunk_get_polyserve_without_chunking(model, profile):
    """A step of 256 tokens is well within 20 ms."""
    spec = live_policy(replace(model, chunk_limit_tokens=256), profile, TIERS_S)
    assert (spec.kind.elastic, spec.without, spec.chunk_tokens) == (True, frozenset({"chunking"}), 256)


def test_stock_engines_with_a_large_chunk_get_the_least_loaded_instance(model, profile):
    """A step of 8,192 tokens takes over 100 ms: the warning names a chunk that does fit, and with it all is well."""
    large = replace(model, chunk_limit_tokens=8192)
    spec = live_policy(large, profile, TIERS_S)
    assert (spec.kind.elastic, spec.chunk_tokens) == (False, 8192)
    warning = why_fallback(large, profile, TIERS_S)
    assert warning is not None
    fitting = int(warning.split("chunk_limit_tokens = ")[1].split(",")[0])
    assert profile.iteration_s(16, fitting, 16_000.0, fitting / 2) <= 0.02
    assert why_fallback(replace(model, chunk_limit_tokens=fitting), profile, TIERS_S) is None


def test_other_policies_stay_as_they_are(model, profile):
    """What does not promise anything is never replaced."""
    assert live_policy(replace(model, policy="lmetric"), profile, TIERS_S).name == "lmetric"
    assert why_fallback(replace(model, policy="lmetric"), profile, TIERS_S) is None


def test_a_function_of_ones_own_is_refused(model, profile):
    """The gateway decides in compiled code and would never ask it: requests would wait for ever."""
    with pytest.raises(
        ConfigError, match=r"is a function, which only the simulator asks .* the gateway takes polyserve"
    ):
        live_policy(replace(model, policy="json:dumps"), profile, TIERS_S)
