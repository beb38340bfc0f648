"""Run scenarios through vLLM's scheduler and polyslo's, without a model, and print what each step carried, as JSON.

    python schedules.py MODEL_FOLDER < scenarios.json

Runs in the engines' environment. A scenario names the scheduler, its settings and the requests; a request says at
which step it arrives. Every step's tokens are made up, so the schedule depends on nothing but the scheduler.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import Any

import torch
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

BLOCK_TOKENS = 16
MOST_STEPS = 2000


def main() -> None:
    """Run what stdin says."""
    with contextlib.redirect_stdout(sys.stderr):  # vLLM logs there
        results = {name: run(sys.argv[1], scenario) for name, scenario in json.load(sys.stdin).items()}
    print("\n" + json.dumps(results))


def run(model: str, scenario: dict[str, Any]) -> dict[str, Any]:
    """Run one scenario to its end, or for as many steps as it says."""
    try:
        scheduler = make(model, scenario)
    except Exception as error:  # the scenario is about it
        return {"error": f"{type(error).__name__}: {error}"}
    arrivals = sorted(scenario["requests"].items(), key=lambda item: item[1].get("at_step", 0))
    steps: list[dict[str, int]] = []
    preempted: list[str] = []
    while arrivals or scheduler.get_num_unfinished_requests() > 0:
        while arrivals and arrivals[0][1].get("at_step", 0) <= len(steps):
            name, asked = arrivals.pop(0)
            scheduler.add_request(request(name, asked))
        if len(steps) >= scenario.get("num_steps", MOST_STEPS):
            break
        output = scheduler.schedule()
        preempted += sorted(output.preempted_req_ids or ())
        steps.append(dict(output.num_scheduled_tokens))
        scheduler.update_from_output(output, computed(scheduler, output))
    unfinished = sorted(scheduler.requests)
    scheduler.shutdown()
    return {"steps": steps, "preempted": preempted, "unfinished": unfinished}


def make(model: str, scenario: dict[str, Any]) -> Any:
    """Make a scheduler with a KV cache that nobody computes."""
    config = EngineArgs(
        model=model, dtype="float32", enforce_eager=True, max_model_len=8192, block_size=BLOCK_TOKENS,
        max_num_seqs=scenario.get("max_num_seqs", 64), max_num_batched_tokens=scenario.get("token_limit", 2048),
        enable_prefix_caching=scenario.get("prefix_caching", False),
        scheduling_policy=scenario.get("policy", "fcfs"),
        additional_config={"polyslo": scenario["polyslo"]} if "polyslo" in scenario else {},
    ).create_engine_config()  # fmt: skip
    config.cache_config.block_size = BLOCK_TOKENS
    config.cache_config.num_gpu_blocks = num_blocks = scenario.get("kv_tokens", 65_536) // BLOCK_TOKENS
    spec = FullAttentionSpec(block_size=BLOCK_TOKENS, num_kv_heads=1, head_size=32, dtype=torch.float32)
    return scheduler_class(scenario)(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(num_blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK_TOKENS,
        hash_block_size=BLOCK_TOKENS,
    )


def scheduler_class(scenario: dict[str, Any]) -> Any:
    """Return vLLM's class, or ours on top of it."""
    is_async = scenario.get("async", False)
    if "polyslo" not in scenario:
        return AsyncScheduler if is_async else Scheduler
    from polyslo.engines import vllm as ours

    return ours.AsyncScheduler if is_async else ours.Scheduler


def request(name: str, asked: dict[str, Any]) -> Request:
    """Make a request of `input_tokens`, the first `shared_tokens` of them the same in all."""
    shared = asked.get("shared_tokens", 0)
    own = 1 + sum(name.encode()) % 1000
    prompt = [7] * shared + [own] * (asked["input_tokens"] - shared)
    params = SamplingParams(
        max_tokens=asked["output_tokens"], ignore_eos=True, temperature=0.0, extra_args=asked.get("tells")
    )
    return Request(
        request_id=name,
        prompt_token_ids=prompt,
        sampling_params=params,
        pooling_params=None,
        arrival_time=time.time(),
        block_hasher=get_request_block_hasher(BLOCK_TOKENS, sha256),
    )


def computed(scheduler: Any, output: Any) -> ModelRunnerOutput:
    """Return a token for everyone whose prompt is through."""
    names = list(output.num_scheduled_tokens)
    tokens = [[] if scheduler.requests[name].is_prefill_chunk else [5] for name in names]
    return ModelRunnerOutput(names, {name: k for k, name in enumerate(names)}, tokens)


if __name__ == "__main__":
    init_none_hash(sha256)
    main()
