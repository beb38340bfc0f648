"""What an engine's own `/metrics` says of its load: vLLM's names and SGLang's.

An engine with several schedulers (label `engine`), or one that serves several names (label `model_name`), has a line
for each: requests and capacities add up, shares of the KV cache in use are averaged. Source: vLLM 0.32, SGLang 0.5.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass

_RUNNING = (b"vllm:num_requests_running", b"sglang:num_running_reqs")
_WAITING = (b"vllm:num_requests_waiting", b"sglang:num_queue_reqs")
_USAGE = (b"vllm:kv_cache_usage_perc", b"sglang:token_usage")
_CACHE = b"vllm:cache_config_info"
_CAPACITY = b"sglang:max_total_num_tokens"
_WANTED = frozenset({*_RUNNING, *_WAITING, *_USAGE, _CACHE, _CAPACITY})
_SAMPLE = re.compile(rb"^((?:vllm|sglang):\w+)(?:\{(.*)\})? +(\S+)", re.MULTILINE)
_LABEL = re.compile(rb'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """An engine's load by its own count; what it does not tell is None."""

    num_running: int
    num_waiting: int
    kv_ratio: float | None = None
    kv_capacity_tokens: int | None = None

    @property
    def num_requests(self) -> int:
        """Requests inside."""
        return self.num_running + self.num_waiting

    @property
    def kv_tokens(self) -> int | None:
        """KV tokens in use."""
        if self.kv_ratio is None or self.kv_capacity_tokens is None:
            return None
        return round(self.kv_ratio * self.kv_capacity_tokens)


def read_load(text: bytes) -> EngineLoad | None:
    """Return the load that a page of metrics tells of; None where it does not tell of requests."""
    found: dict[bytes, list[tuple[bytes, float]]] = defaultdict(list)
    for name, labels, value in _SAMPLE.findall(text):
        if name in _WANTED and math.isfinite(number := _number(value)):
            found[name].append((labels, number))
    if not any(name in found for name in _RUNNING):
        return None
    shares = [value for name in _USAGE for _, value in found[name]]
    return EngineLoad(
        num_running=_total(found, _RUNNING),
        num_waiting=_total(found, _WAITING),
        kv_ratio=min(max(sum(shares) / len(shares), 0.0), 1.0) if shares else None,
        kv_capacity_tokens=_capacity(found),
    )


def _total(found: dict[bytes, list[tuple[bytes, float]]], names: tuple[bytes, ...]) -> int:
    return max(0, round(sum(value for name in names for _, value in found[name])))


def _capacity(found: dict[bytes, list[tuple[bytes, float]]]) -> int | None:
    """Return the KV tokens that fit: as stated, else blocks times their size; each scheduler has its own."""
    total = _total(found, (_CAPACITY,))
    for labels, _ in found[_CACHE]:
        told = dict(_LABEL.findall(labels))
        blocks, size = _number(told.get(b"num_gpu_blocks", b"")), _number(told.get(b"block_size", b""))
        stated = _number(told.get(b"kv_cache_size_tokens", b""))
        tokens = stated if math.isfinite(stated) else blocks * size
        total += int(tokens) if math.isfinite(tokens) else 0
    return total or None


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
