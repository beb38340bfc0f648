"""An endpoint as a measurement sees it: what it says of itself, and an emulated one over HTTP."""

from __future__ import annotations

import asyncio

import pytest

from polyslo.engines.emulated_engine import EngineSettings
from polyslo.engines.emulated_instance import EmulatedInstance
from polyslo.engines.output_lengths import DEFAULT, OutputLengths
from polyslo.errors import InputError
from polyslo.measure.endpoint import Endpoint, _kv_capacity, reject_longer


def test_an_emulated_endpoint_streams_what_is_asked_of_it(profile):
    """Facts from its model list, metrics and version; tokens by its own usage; a request can be taken back."""

    async def main():
        settings = EngineSettings(kv_capacity_tokens=32_000, max_model_len=8000)
        instance = EmulatedInstance(profile, settings, OutputLengths.parse(DEFAULT, 0), model="m", speed=200.0)
        await instance.start()
        endpoint = Endpoint(instance.url, longest_tokens=1000, seed=1)
        facts = await endpoint.ask(None)
        assert (facts.model, facts.max_context_tokens, facts.kv_capacity_tokens) == ("m", 8000, 32_000)
        track = endpoint.open(300, 20)
        await track.until(20)
        assert track.num_tokens == 20
        assert instance.engine.num_prompt_tokens == 300
        long = endpoint.open(300, 4000)
        await long.until(2)
        long.close()
        assert long.is_over
        too_long = endpoint.open(900, 100_000)
        with pytest.raises(InputError, match="HTTP 400"):
            await too_long.until(1)
        await endpoint.close()
        await instance.stop()

    asyncio.run(main())


def test_capacity_is_read_as_engines_say_it():
    """vLLM says blocks, or tokens; SGLang has a gauge of its own; nothing is nothing."""
    assert _kv_capacity({"num_gpu_blocks": "100", "block_size": "16"}, "") == 1600
    assert _kv_capacity({"num_gpu_blocks": "None", "block_size": "16"}, "") is None
    assert _kv_capacity({}, 'sglang:max_total_num_tokens{model_name="m"} 12345.0\n') == 12345
    assert _kv_capacity({}, "") is None


def test_a_context_beyond_the_endpoints_is_refused():
    """The message has both numbers."""
    with pytest.raises(InputError, match="at most 4,096, what it takes, got 8,192"):
        reject_longer(8192, 4096)
    reject_longer(8192, None)
