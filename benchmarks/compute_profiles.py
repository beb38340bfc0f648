"""Compute iteration times from the measured per-operation tables of the PyPI package `aiconfigurator-core`.

python benchmarks/compute_profiles.py OUT_FOLDER [NAME...]
python benchmarks/import_profiles.py OUT_FOLDER

The first command needs `aiconfigurator-core==0.12.0` installed, and nothing of polyslo: it may run in an environment
of its own. Only the package's times of single forward passes are used, which are sums of measured operations; what it
knows of end-to-end runs (queueing factors, corrections of mixed steps) is not. The points of the six BF16 profiles
come out digit for digit; their KV capacities were reckoned from nominal gigabytes, here from what a GPU really has.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aiconfigurator_core.sdk import EngineHandle

DECODES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
CONTEXTS = tuple(64 << k for k in range(12))
CHUNKS = (16, 32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
PREFIXES = (0, 1024, 4096, 16384, 65536, 114688)
MOST_KV_TOKENS = 1 << 21  # of a decode point: more than any instance holds
MIXED = ((128, 512, 1024, 2048, 4096), (8, 32, 128, 256), (512, 2048, 8192))
SYSTEMS = {"a100": "a100_sxm", "h100": "h100_sxm", "h200": "h200_sxm", "b200": "b200_sxm"}
GIB = 1 << 30
MEMORY_BYTES = {"a100": 80 * GIB, "h100": 80 * GIB, "h200": 141 * GIB, "b200": 180 * GIB}
VERSIONS = {"vllm": "0.24.0", "trtllm": "1.3.0rc20"}
KV_RULES = {
    "vllm": "0.90 of GPU memory, less weights and activations",
    "trtllm": "0.90 of what weights and activations leave of GPU memory",
}
OLDER_VERSIONS = {("a100", "vllm"): "0.14.0"}


@dataclass(frozen=True)
class Model:
    """A checkpoint as an engine serves it; `modes` are what its own configuration does not say."""

    path: str
    dtype: str
    kv_dtype: str
    layers: int
    kv_heads: int
    head_size: int
    active_params: float
    weight_bytes: float
    modes: tuple[tuple[str, str], ...] = ()

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in every layer."""
        return 2 * self.layers * self.kv_heads * self.head_size * (1 if self.kv_dtype == "fp8" else 2)


MODELS = {
    "llama-3.1-8b": Model("meta-llama/Meta-Llama-3.1-8B", "bfloat16", "bfloat16", 32, 8, 128, 8.03e9, 16.06e9),
    "llama-3.1-70b": Model("meta-llama/Meta-Llama-3.1-70B", "bfloat16", "bfloat16", 80, 8, 128, 70.6e9, 141.2e9),
    "qwen3-30b-a3b": Model("Qwen/Qwen3-30B-A3B", "bfloat16", "bfloat16", 48, 4, 128, 3.3e9, 61e9),
    # NVIDIA's FP8 checkpoint: static scales, FP8 KV; embeddings and head stay BF16.
    "llama-3.1-70b-fp8": Model("nvidia/Llama-3.1-70B-Instruct-FP8", "fp8", "fp8", 80, 8, 128, 70.6e9, 72.7e9),
    # The BF16 checkpoint, quantised by the engine: scales of activations are computed at run time.
    "qwen3-32b-fp8": Model("Qwen/Qwen3-32B", "fp8", "fp8", 64, 8, 128, 32.8e9, 34.3e9,
                           (("gemm_quant_mode", "fp8"), ("kvcache_quant_mode", "fp8"))),
}  # fmt: skip

SIZES = {"h100": (2, 4, 8), "h200": (1, 2, 4, 8), "b200": (1, 2, 4, 8)}
SHIPPED = (
    *(f"llama-3.1-70b-fp8_{gpu}_tp{size}" for gpu, sizes in SIZES.items() for size in sizes),
    *(f"llama-3.1-70b-fp8_{gpu}_tp{size}_trtllm" for gpu in ("h200", "b200") for size in SIZES[gpu]),
    *(f"qwen3-32b-fp8_h100_tp{size}_trtllm" for size in (1, 2, 4, 8)),
)


def main() -> None:
    """Write one file a name: MODEL_GPU_tpN, with _ENGINE at the end where that is not vLLM."""
    logging.disable(logging.WARNING)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or SHIPPED:
        model, gpu, size, *engine = name.split("_")
        content = profile(MODELS[model], gpu, int(size.removeprefix("tp")), *engine)
        (folder / f"{name}.json").write_text(json.dumps(content))
        print(name, len(content["decode"]), "decode points", file=sys.stderr)


def profile(model: Model, gpu: str, tensor_parallel: int, engine: str = "vllm") -> dict[str, Any]:
    """Return a profile file's content: facts, KV capacity, and the three kinds of points in ms."""
    memory, taken = MEMORY_BYTES[gpu] * tensor_parallel, model.weight_bytes + 3e9 * tensor_parallel
    kv_bytes = 0.9 * (memory - taken) if engine == "trtllm" else 0.9 * memory - taken  # each engine's own default
    engine_version = OLDER_VERSIONS.get((gpu, engine), VERSIONS[engine])
    handle = EngineHandle.compile(
        model.path, SYSTEMS[gpu], engine, backend_version=engine_version, tp_size=tensor_parallel, **dict(model.modes)
    )
    return {
        "model": model.path,
        "system": SYSTEMS[gpu],
        "tensor_parallel": tensor_parallel,
        "engine": engine,
        "engine_version": engine_version,
        "dtype": model.dtype,
        "kv_dtype": model.kv_dtype,
        "source": f"computed with the PyPI package aiconfigurator-core {version('aiconfigurator-core')} (Apache-2.0) "
        "from its measured per-operation tables for this GPU and engine version; an estimate of one forward pass, "
        "without the engine's own host overhead per step",
        "kv_bytes_per_token": model.kv_bytes_per_token,
        "weight_bytes": model.weight_bytes,
        "active_params": model.active_params,
        "gpu_memory_bytes": memory,
        "kv_capacity_tokens": int(kv_bytes / model.kv_bytes_per_token),
        "kv_capacity_note": f"{KV_RULES[engine]}, over kv_bytes_per_token; weights in {model.dtype}, 3e9 bytes of "
        "activations per GPU",
    } | _points(handle)


def _points(handle: EngineHandle) -> dict[str, list[dict[str, float]]]:
    """Return the three lists; in `mixed`, `context` is that of the decodes and the length of the prompts."""
    return {
        "decode": [
            {"decodes": n, "context": c, "ms": round(handle.decode_step_latency(n, c, 2), 4)}
            for n in DECODES
            for c in CONTEXTS
            if n * c <= MOST_KV_TOKENS
        ],
        "prefill": [
            {"chunk": n, "prefix": p, "ms": round(handle.predict_prefill_latency(1, n + p, p), 4)}
            for n in CHUNKS
            for p in PREFIXES
        ],
        "mixed": [
            {"chunk": n, "decodes": d, "context": c, "ms": round(handle.mixed_step_latency(n, d, c, 2), 4)}
            for n in MIXED[0]
            for d in MIXED[1]
            for c in MIXED[2]
        ],
    }


if __name__ == "__main__":
    main()
