"""What pages of metrics say of an engine's load."""

from __future__ import annotations

import pytest

from polyslo.engines.answers import AnswerStats
from polyslo.engines.clock import VirtualClock
from polyslo.engines.emulated_engine import EmulatedEngine, EngineSettings
from polyslo.engines.emulated_metrics import metrics_text
from polyslo.gateway.belief.engine_metrics import EngineLoad, read_load
from polyslo.profiles.library import DEFAULT_PROFILE, load_profile

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a \\"b\\" {c}"} 3.0
vllm:num_requests_running{engine="1",model_name="a"} 2.0
vllm:num_requests_waiting{engine="0",model_name="a"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="a",reason="capacity"} 9.0
vllm:kv_cache_usage_perc{engine="0",model_name="a"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="a"} 0.25
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="1000"} 1.0
vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="1000"} 1.0
"""
SGLANG = b"""sglang:num_running_reqs{model_name="m"} 4.0
sglang:num_queue_reqs{model_name="m"} 2.0
sglang:token_usage{model_name="m"} 0.1
sglang:max_total_num_tokens{model_name="m"} 50000.0
"""
# Of SGLang 0.5.23 with two requests, recorded; the families between them left out.
SGLANG_RECORDED = b"""# HELP sglang:max_total_num_tokens Maximum total number of tokens in the KV cache pool.
# TYPE sglang:max_total_num_tokens gauge
sglang:max_total_num_tokens{engine_type="unified",model_name="nano",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 16384.0
# HELP sglang:num_running_reqs The number of running requests.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{engine_type="unified",model_name="nano",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 2.0
# HELP sglang:num_queue_reqs The number of requests in the waiting queue.
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{engine_type="unified",model_name="nano",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 0.0
# HELP sglang:token_usage The token usage.
# TYPE sglang:token_usage gauge
sglang:token_usage{engine_type="unified",model_name="nano",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 0.21
"""


def test_vllms_schedulers_add_up() -> None:
    """Requests and blocks of several; shares of the cache are averaged. Names that only begin alike are others."""
    load = read_load(VLLM)
    assert load == EngineLoad(5, 1, 0.375, 32_000)
    assert (load.num_requests, load.kv_tokens) == (6, 12_000)


def test_sglangs_names() -> None:
    """They say the same."""
    assert read_load(SGLANG) == EngineLoad(4, 2, 0.1, 50_000)
    assert read_load(SGLANG_RECORDED) == EngineLoad(2, 0, 0.21, 16_384)


@pytest.mark.parametrize("text", [b"", b"python_gc_objects_collected_total 3\n", b"vllm:num_requests_waiting 1\n"])
def test_pages_without_requests_tell_nothing(text: bytes) -> None:
    """Another server's, or an engine whose metrics are switched off."""
    assert read_load(text) is None


def test_numbers_that_are_none_are_left_out() -> None:
    """NaN, words and blocks that are not known yet: the rest counts."""
    text = (
        b"vllm:num_requests_running 2\nvllm:num_requests_waiting NaN\nvllm:kv_cache_usage_perc x\n"
        b'vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1\n'
    )
    assert read_load(text) == EngineLoad(2, 0, None, None)


def test_an_emulated_engine_is_understood() -> None:
    """It has vLLM's names: what was sent to it is what is read."""
    engine = EmulatedEngine(load_profile(DEFAULT_PROFILE).profile, EngineSettings(), VirtualClock())
    for _ in range(3):
        engine.submit(100, 10, lambda last: None)
    load = read_load(metrics_text(engine, AnswerStats(), "m"))
    assert load is not None
    assert load.num_requests == 3
    assert load.kv_capacity_tokens == engine.kv_capacity_tokens
    assert load.kv_tokens == pytest.approx(engine.kv_tokens, abs=1)
