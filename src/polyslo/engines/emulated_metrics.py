"""`/metrics` of an emulated engine: vLLM's names where vLLM has one, ours for how true the timing was."""

from __future__ import annotations

import resource
from collections.abc import Iterator

from polyslo.engines.answers import AnswerStats
from polyslo.engines.emulated_engine import EmulatedEngine

BLOCK_TOKENS = 16  # vLLM's default on a GPU; memory here is counted in tokens, blocks are only reported


def metrics_text(engine: EmulatedEngine, stats: AnswerStats, model: str) -> bytes:
    """Return everything in Prometheus' text format."""
    return ("\n".join(_lines(engine, stats, _escaped(model))) + "\n").encode()


def _lines(engine: EmulatedEngine, stats: AnswerStats, model: str) -> Iterator[str]:
    labels = f'engine="0",model_name="{model}"'
    running = min(engine.num_running, engine.num_residents)
    usage = engine.kv_tokens / engine.kv_capacity_tokens
    blocks = engine.kv_capacity_tokens // BLOCK_TOKENS
    cache = (
        f'block_size="{BLOCK_TOKENS}",cache_dtype="auto",enable_prefix_caching="False",engine="0",'
        f'kv_cache_size_tokens="{engine.kv_capacity_tokens}",num_gpu_blocks="{blocks}"'
    )
    for kind, name, text, where, value in (
        ("gauge", "vllm:num_requests_running", "Number of requests in model execution batches.", labels, running),
        ("gauge", "vllm:num_requests_waiting", "Number of requests waiting to be processed.", labels,
         engine.num_residents - running),
        ("gauge", "vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", labels, usage),
        ("gauge", "vllm:cache_config_info", "Information of the LLMEngine CacheConfig", cache, 1),
        ("counter", "vllm:num_preemptions_total", "Cumulative number of preemption from the engine.", labels,
         engine.num_preemptions),
        ("counter", "vllm:prompt_tokens_total", "Number of prefill tokens processed.", labels,
         engine.num_prompt_tokens),
        ("counter", "vllm:generation_tokens_total", "Number of generation tokens processed.", labels,
         engine.num_generated_tokens),
    ):  # fmt: skip
        yield from _described(kind, name, text)
        yield f"{name}{{{where}}} {value:.9g}" if isinstance(value, float) else f"{name}{{{where}}} {value}"
    yield from _described("counter", "vllm:request_success_total", "Count of successfully processed requests.")
    for reason, count in stats.num_finished.items():
        yield f'vllm:request_success_total{{finished_reason="{reason}",{labels}}} {count}'
    yield from _described("histogram", "vllm:time_to_first_token_seconds", "Time to first token in seconds.")
    yield from stats.ttft.lines("vllm:time_to_first_token_seconds", labels)
    yield from _described("histogram", "vllm:e2e_request_latency_seconds", "End to end request latency in seconds.")
    yield from stats.duration.lines("vllm:e2e_request_latency_seconds", labels)
    yield from _timing_lines(engine, f'model_name="{model}"')


def _timing_lines(engine: EmulatedEngine, labels: str) -> Iterator[str]:
    name = "polyslo_emulated_lag_seconds"
    yield from _described(
        "histogram", name, "Engine time from an iteration's end by the profile to its last token's hand-over."
    )
    yield from engine.lag.lines(name, labels)
    name = "polyslo_emulated_lost_seconds_total"
    yield from _described("counter", name, "Engine time by which the engine fell behind its profile for good.")
    yield f"{name}{{{labels}}} {engine.lost_s:.9g}"
    name = "polyslo_emulated_iterations_total"
    yield from _described("counter", name, "Iterations begun.")
    yield f"{name}{{{labels}}} {engine.num_iterations}"
    name = "process_cpu_seconds_total"
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield from _described("counter", name, "Total user and system CPU time spent in seconds, of all its instances.")
    yield f"{name} {used.ru_utime + used.ru_stime:.6f}"


def _described(kind: str, name: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
