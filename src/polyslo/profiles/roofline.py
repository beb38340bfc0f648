"""Roofline estimate: iteration times of a model on a GPU that nobody measured, from its shape and the datasheet.

    iteration = layers * layer_s + matrix(tokens) + activations(tokens) + head(sequences) + decodes * sequence_s
                + KV bytes / memory rate + attention FLOPs / matrix rate + all-reduces

`matrix` and `head` are sqrt(compute**2 + read**2): computing and reading the weights overlap in part. A mixture of
experts reads the experts that its batch is expected to touch. Every rate is the datasheet's times an efficiency;
the efficiencies are fitted to the shipped measured profiles, and `benchmarks/roofline_error.py` prints the fit and
the error on profiles held out of it (docs/profiles.md). Source: ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from polyslo.errors import ProfileError, nearest
from polyslo.profiles.gpus import Gpu, find_gpu
from polyslo.profiles.shapes import ModelShape, find_shape

PREFIX = "roofline:"
SYNTAX = "roofline:MODEL:GPU[:tpN][:bf16|:fp8]"
DTYPES = ("bf16", "fp8")
MEMORY_SHARE = 0.9  # of a GPU's memory, vLLM's default
RESERVE_BYTES = 3e9  # activations and graphs, per GPU; as in the shipped profiles
MIN_KV_TOKENS = 8192  # an instance that holds less serves nobody
MAX_TENSOR_PARALLEL = 8  # one machine: beyond it the link is another
BF16_BYTES = 2  # of KV, activations and the output head, whatever the weights are
DECODES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
CONTEXTS = (64, 256, 1024, 4096, 16_384, 65_536)
CHUNKS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192, 16_384)
PREFIXES = (0, 4096, 16_384, 65_536)

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Factors:
    """What the datasheet does not tell: shares of its rates that are reached, and fixed times in seconds."""

    matrix_flops: float
    weight_bandwidth: float
    kv_bandwidth: float
    attention_flops: float
    link_bandwidth: float
    activation_passes: float  # how often a layer's activations cross the memory bus
    layer_s: float
    sequence_s: float  # sampling and the like, per decode
    allreduce_s: float  # latency of one


# Fitted to all shipped profiles, by benchmarks/roofline_error.py.
FITTED = Factors(
    matrix_flops=0.856,
    weight_bandwidth=0.794,
    kv_bandwidth=0.878,
    attention_flops=0.633,
    link_bandwidth=0.962,
    activation_passes=3.98,
    layer_s=35.0e-6,
    sequence_s=1.82e-6,
    allreduce_s=1.99e-6,
)
EXPECTED_ERROR = (
    "against shipped profiles held out of the fit: mean |error| of decode 8%, prefill 6%, mixed 8%; of the worst "
    "profile 14%, 9%, 17%; of single points up to 39%. Checked on A100, H100 and H200 in bf16 only"
)


@dataclass(frozen=True, slots=True)
class Roofline:
    """One (model, GPU, tensor-parallel size, weight format). FP8 is for the layers' weights and matrix work."""

    model: str
    shape: ModelShape
    gpu: Gpu
    gpu_name: str
    tensor_parallel: int = 1
    dtype: str = "bf16"
    factors: Factors = FITTED

    @classmethod
    def of(cls, model: str, gpu: str, *, tensor_parallel: int = 1, dtype: str | None = None) -> Roofline:
        """Resolve names, or the path of a `config.json`. `dtype` None is that of the published weights.

        Raises `ProfileError` for unknown names, sizes that don't divide the heads, FP8 on a GPU without it, and
        models that don't fit (with the smallest size that does).
        """
        short, shape = find_shape(model)
        roofline = cls(short, shape, find_gpu(gpu), gpu.lower(), tensor_parallel, dtype or shape.dtype)
        roofline._reject_impossible()
        return roofline

    @classmethod
    def parse(cls, text: str) -> Roofline:
        """Read `roofline:MODEL:GPU[:tpN][:bf16|:fp8]`."""
        model, _, rest = text.removeprefix(PREFIX).partition(":")
        gpu, *options = rest.split(":")
        if not model or not gpu:
            raise ProfileError(f"profile {text!r}: expected {SYNTAX}, for example roofline:llama-3.1-8b:l40s")
        tensor_parallel, dtype = 1, None
        for option in options:
            if re.fullmatch(r"tp\d+", option.lower()):
                tensor_parallel = int(option[2:])
            elif option.lower() in DTYPES:
                dtype = option.lower()
            else:
                raise ProfileError(f"profile {text!r}: unknown {option!r}; expected {SYNTAX}")
        return cls.of(model, gpu, tensor_parallel=tensor_parallel, dtype=dtype)

    @property
    def name(self) -> str:
        """Name that shipped profiles would have, with what it is."""
        return f"{self.model}-{self.gpu_name}-tp{self.tensor_parallel}-{self.dtype}-roofline"

    @property
    def weight_bytes(self) -> float:
        """Weights on all GPUs; embeddings and output head stay BF16."""
        others = self.shape.total_params - self.shape.layer_params
        return float(self.shape.layer_params * self._weight_param_bytes + others * BF16_BYTES)

    @property
    def kv_bytes_per_token(self) -> float:
        """KV on all GPUs; with more GPUs than KV heads each head is held several times."""
        heads = max(self.shape.num_kv_heads, self.tensor_parallel)
        return float(2 * BF16_BYTES * self.shape.num_layers * heads * self.shape.head_dim)

    @property
    def kv_capacity_tokens(self) -> int:
        """KV tokens that fit beside weights and reserve; negative where not even these fit."""
        return int((self._available_bytes - self._fixed_bytes) / self.kv_bytes_per_token)

    def batch_s(
        self, decodes: npt.ArrayLike, chunk: npt.ArrayLike, kv_tokens: npt.ArrayLike, pairs: npt.ArrayLike
    ) -> FloatArray:
        """Estimate iterations, seconds: arrays of one shape. `pairs` is chunk tokens x context tokens of each."""
        decodes, chunk, kv_tokens, pairs = (np.asarray(a, dtype=float) for a in (decodes, chunk, kv_tokens, pairs))
        tokens, shape, gpu, factors = decodes + chunk, self.shape, self.gpu, self.factors
        memory_s = 1 / (gpu.memory_bytes_per_s * self.tensor_parallel)  # per byte, spread over all GPUs
        flop_s = 1 / (gpu.bf16_flops * self.tensor_parallel)
        kv_s = kv_tokens * self.kv_bytes_per_token * memory_s / factors.kv_bandwidth
        attention_flops = 4 * shape.num_layers * shape.num_heads * shape.head_dim * pairs
        return (
            shape.num_layers * factors.layer_s
            + self._matrix_s(tokens)
            + self._activations_s(tokens)
            + self._head_s(decodes + (chunk > 0))
            + decodes * factors.sequence_s
            + kv_s
            + attention_flops * flop_s / factors.attention_flops
            + self._allreduces_s(tokens)
        )

    def content(self) -> dict[str, Any]:
        """Return the content of a profile file: facts, sizes, and the estimate at a grid of points (ms)."""
        decode = [(n, context) for n in DECODES for context in CONTEXTS]
        prefill = [(chunk, prefix) for chunk in CHUNKS for prefix in PREFIXES]
        decode_s = self.batch_s(
            [n for n, _ in decode], [0] * len(decode), [n * c for n, c in decode], [0] * len(decode)
        )
        pairs = [chunk * (prefix + chunk / 2) for chunk, prefix in prefill]
        prefill_s = self.batch_s([0] * len(pairs), [chunk for chunk, _ in prefill], [0] * len(pairs), pairs)
        return {
            "model": self.shape.title,
            "system": self.gpu.title,
            "tensor_parallel": self.tensor_parallel,
            "dtype": self.dtype,
            "source": f"roofline ESTIMATE, nobody measured it: model shape from {self.shape.source}; GPU from "
            f"{self.gpu.source}; efficiencies fitted to the shipped measured profiles; without the engine's own "
            "host time per step",
            "expected_error": EXPECTED_ERROR,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "weight_bytes": self.weight_bytes,
            "kv_capacity_tokens": self.kv_capacity_tokens,
            "kv_capacity_note": f"{MEMORY_SHARE:.0%} of nominal GPU memory less weights less "
            f"{RESERVE_BYTES / 1e9:g}e9 bytes of activations per GPU, over kv_bytes_per_token",
            "decode": [{"decodes": n, "context": c, "ms": _ms(s)} for (n, c), s in zip(decode, decode_s, strict=True)],
            "prefill": [{"chunk": c, "prefix": p, "ms": _ms(s)} for (c, p), s in zip(prefill, prefill_s, strict=True)],
        }

    def _matrix_s(self, tokens: FloatArray) -> FloatArray:
        shape = self.shape
        active = shape.dense_params + shape.num_layers * shape.num_experts_per_token * shape.expert_params
        touched = shape.dense_params + shape.num_layers * shape.experts_touched(tokens) * shape.expert_params
        return self._overlapped_s(2 * tokens * active, touched * self._weight_param_bytes, self._matrix_flops)

    def _head_s(self, sequences: FloatArray) -> FloatArray:
        params = self.shape.head_params
        return self._overlapped_s(2 * sequences * params, params * BF16_BYTES, self.gpu.bf16_flops)

    def _overlapped_s(self, flops: npt.ArrayLike, read_bytes: npt.ArrayLike, flops_per_s: float) -> FloatArray:
        compute_s = np.asarray(flops) / (flops_per_s * self.factors.matrix_flops)
        read_s = np.asarray(read_bytes) / (self.gpu.memory_bytes_per_s * self.factors.weight_bandwidth)
        return np.asarray(np.hypot(compute_s, read_s) / self.tensor_parallel)

    def _activations_s(self, tokens: FloatArray) -> FloatArray:
        """Residual, norms and projections on every GPU; the MLP's activations are split like its weights."""
        shape = self.shape
        mlp = 3 * shape.intermediate_size
        if shape.num_experts:
            mlp = shape.num_experts_per_token * (mlp + 2 * shape.hidden_size) + 3 * shape.shared_intermediate_size
        a_token = BF16_BYTES * shape.num_layers * (4 * shape.hidden_size + mlp / self.tensor_parallel)
        return tokens * a_token * self.factors.activation_passes / self.gpu.memory_bytes_per_s

    def _allreduces_s(self, tokens: FloatArray) -> FloatArray:
        """Two a layer; a ring sends 2 (n - 1) / n of the data over each GPU's link."""
        if self.tensor_parallel == 1:
            return np.zeros_like(tokens)
        sent_bytes = tokens * self.shape.hidden_size * BF16_BYTES * 2 * (1 - 1 / self.tensor_parallel)
        once_s = self.factors.allreduce_s + sent_bytes / (self.gpu.link_bytes_per_s * self.factors.link_bandwidth)
        return 2 * self.shape.num_layers * once_s

    @property
    def _weight_param_bytes(self) -> int:
        return 1 if self.dtype == "fp8" else BF16_BYTES

    @property
    def _matrix_flops(self) -> float:
        return self.gpu.fp8_flops or 0.0 if self.dtype == "fp8" else self.gpu.bf16_flops

    @property
    def _available_bytes(self) -> float:
        return MEMORY_SHARE * self.gpu.memory_bytes * self.tensor_parallel

    @property
    def _fixed_bytes(self) -> float:
        return self.weight_bytes + RESERVE_BYTES * self.tensor_parallel

    @property
    def _splits_heads(self) -> bool:
        size, kv_heads = self.tensor_parallel, self.shape.num_kv_heads
        return (
            1 <= size <= MAX_TENSOR_PARALLEL
            and self.shape.num_heads % size == 0
            and (kv_heads % size == 0 or size % kv_heads == 0)
        )

    def _reject_impossible(self) -> None:
        where = f"{self.model} on {self.tensor_parallel} x {self.gpu.title}, {self.dtype}"
        if self.dtype not in DTYPES:
            raise ProfileError(f"{where}: unknown dtype {self.dtype!r}{nearest(self.dtype, DTYPES)}")
        if self.dtype == "fp8" and self.gpu.fp8_flops is None:
            raise ProfileError(f"{where}: this GPU has no FP8 matrix units; use bf16 or another GPU")
        if not self._splits_heads:
            sizes = ", ".join(str(other.tensor_parallel) for other in self._sizes())
            raise ProfileError(
                f"{where}: {self.shape.num_heads} heads and {self.shape.num_kv_heads} KV heads can't be split over "
                f"{self.tensor_parallel} GPUs; allowed tensor-parallel sizes: {sizes}"
            )
        if self.kv_capacity_tokens < MIN_KV_TOKENS:
            needed_gb = (self._fixed_bytes + MIN_KV_TOKENS * self.kv_bytes_per_token) / 1e9
            fitting = [other.tensor_parallel for other in self._sizes() if other.kv_capacity_tokens >= MIN_KV_TOKENS]
            larger = "a larger GPU or fp8" if self.dtype == "bf16" and self.gpu.fp8_flops else "a larger GPU"
            remedy = f"use tensor-parallel size {fitting[0]}" if fitting else f"no size up to 8 fits: use {larger}"
            raise ProfileError(
                f"{where}: does not fit, {needed_gb:.1f} GB needed (weights {self.weight_bytes / 1e9:.1f}, "
                f"{RESERVE_BYTES / 1e9:g} of activations a GPU, {MIN_KV_TOKENS:,} KV tokens), "
                f"{self._available_bytes / 1e9:.1f} GB available ({MEMORY_SHARE:.0%} of the memory); {remedy}"
            )

    def _sizes(self) -> list[Roofline]:
        """Return the same on every number of GPUs that splits its heads."""
        sizes = (replace(self, tensor_parallel=size) for size in range(1, MAX_TENSOR_PARALLEL + 1))
        return [other for other in sizes if other._splits_heads]


def _ms(seconds: float) -> float:
    return float(f"{seconds * 1e3:.6g}")
