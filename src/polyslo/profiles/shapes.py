"""Model shapes: the numbers of a `config.json` that iteration time and memory follow from.

Dense and mixture-of-experts decoders whose layers are all alike, with grouped-query attention over the whole
context and a gated MLP (three matrices). Anything else in a configuration is refused: latent attention, sliding
windows, a mixture in some layers only, weights in other formats than BF16 and FP8.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polyslo.errors import ProfileError, nearest


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder. `num_experts` is 0 for a dense model; then `intermediate_size` is its MLP, else an expert's."""

    title: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    embeddings_tied: bool = False
    num_experts: int = 0
    num_experts_per_token: int = 0
    shared_intermediate_size: int = 0  # of an expert that every token passes
    dtype: str = "bf16"  # of the published weights: bf16 or fp8
    source: str = "its config.json on Hugging Face"

    @property
    def attention_params(self) -> int:
        """Parameters of one layer's projections."""
        return 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)

    @property
    def expert_params(self) -> int:
        """Parameters of one expert; of the whole MLP of a dense layer."""
        return 3 * self.hidden_size * self.intermediate_size

    @property
    def dense_params(self) -> int:
        """Parameters of all layers that every token passes: projections, and the MLP, or router and shared expert."""
        if not self.num_experts:
            return self.num_layers * (self.attention_params + self.expert_params)
        routing = self.hidden_size * (self.num_experts + 3 * self.shared_intermediate_size)
        return self.num_layers * (self.attention_params + routing)

    @property
    def head_params(self) -> int:
        """Parameters of the output head."""
        return self.vocab_size * self.hidden_size

    @property
    def layer_params(self) -> int:
        """Parameters of all layers, every expert included."""
        return self.dense_params + self.num_layers * self.num_experts * self.expert_params

    @property
    def total_params(self) -> int:
        """Parameters of the model, without norms and biases."""
        return self.layer_params + self.head_params * (1 if self.embeddings_tied else 2)

    def experts_touched(self, tokens: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return how many of a layer's experts batches need on average, routing taken as uniform."""
        left_out = 1.0 - self.num_experts_per_token / max(1, self.num_experts)
        return np.asarray(self.num_experts * (1.0 - left_out ** np.asarray(tokens, dtype=np.float64)))


MODELS = {
    "llama-3.1-8b": ModelShape("meta-llama/Llama-3.1-8B", 4096, 32, 32, 8, 128, 14336, 128256),
    "llama-3.1-70b": ModelShape("meta-llama/Llama-3.1-70B", 8192, 80, 64, 8, 128, 28672, 128256),
    "llama-3.1-405b": ModelShape("meta-llama/Llama-3.1-405B", 16384, 126, 128, 8, 128, 53248, 128256),
    "llama-3.2-1b": ModelShape("meta-llama/Llama-3.2-1B", 2048, 16, 32, 8, 64, 8192, 128256, True),
    "llama-3.2-3b": ModelShape("meta-llama/Llama-3.2-3B", 3072, 28, 24, 8, 128, 8192, 128256, True),
    "qwen3-8b": ModelShape("Qwen/Qwen3-8B", 4096, 36, 32, 8, 128, 12288, 151936),
    "qwen3-32b": ModelShape("Qwen/Qwen3-32B", 5120, 64, 64, 8, 128, 25600, 151936),
    "mistral-7b": ModelShape("mistralai/Mistral-7B-v0.3", 4096, 32, 32, 8, 128, 14336, 32768),
    "mixtral-8x7b": ModelShape("mistralai/Mixtral-8x7B-v0.1", 4096, 32, 32, 8, 128, 14336, 32000, False, 8, 2),
    "qwen3-30b-a3b": ModelShape("Qwen/Qwen3-30B-A3B", 2048, 48, 32, 4, 128, 768, 151936, False, 128, 8),
    "qwen3-235b-a22b": ModelShape("Qwen/Qwen3-235B-A22B", 4096, 94, 64, 4, 128, 1536, 151936, False, 128, 8),
}


def find_shape(name_or_path: str) -> tuple[str, ModelShape]:
    """Return a short name and the shape: a known model, or a Hugging Face style `config.json`.

    Raises `ProfileError` for unknown names (naming the nearest) and configurations that can't be used.
    """
    path = Path(name_or_path)
    if path.suffix == ".json" or "/" in name_or_path:
        short = path.resolve().parent.name if path.stem == "config" else path.stem
        return short, _read_config(path)
    if name_or_path.lower() not in MODELS:
        raise ProfileError(
            f"model: unknown {name_or_path!r}{nearest(name_or_path.lower(), MODELS)} "
            "(the path of a config.json works too)"
        )
    return name_or_path.lower(), MODELS[name_or_path.lower()]


def parse_config(data: Any, where: str) -> ModelShape:
    """Read the content of a `config.json`; errors name `where`, the key and what is allowed."""
    if not isinstance(data, dict):
        raise ProfileError(f"{where}: a model's configuration is a JSON object, got {type(data).__name__}")
    _reject_unlike_layers(data, where)

    def count(*keys: str, default: int | None = None) -> int:
        return _count(data, keys, default, where)

    heads = count("num_attention_heads")
    hidden = count("hidden_size")
    experts = count("num_local_experts", "num_experts", default=0)
    mlp_keys = ("moe_intermediate_size", "intermediate_size") if experts else ("intermediate_size",)
    return ModelShape(
        title=where,
        hidden_size=hidden,
        num_layers=count("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=count("num_key_value_heads", default=heads),
        head_dim=count("head_dim", default=hidden // heads),
        intermediate_size=count(*mlp_keys),
        vocab_size=count("vocab_size"),
        embeddings_tied=data.get("tie_word_embeddings") is True,
        num_experts=experts,
        num_experts_per_token=count("num_experts_per_tok") if experts else 0,
        shared_intermediate_size=count("shared_expert_intermediate_size", default=0) if experts else 0,
        dtype="fp8" if data.get("quantization_config") else "bf16",
        source=f"the file {where}",
    )


def _read_config(path: Path) -> ModelShape:
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise ProfileError(f"{path}: can't be read, {error.strerror}; check the path") from error
    except ValueError as error:
        raise ProfileError(f"{path}: not JSON, {error}; give the model's config.json") from error
    return parse_config(data, str(path))


def _count(data: Mapping[str, Any], keys: tuple[str, ...], default: int | None, where: str) -> int:
    """Return the first of `keys` that is present; null counts as absent."""
    for key in keys:
        value = data.get(key)
        if value is None:
            continue
        least = 0 if default == 0 else 1
        if type(value) is not int or value < least:
            raise ProfileError(f"{where}: {key} must be a whole number >= {least}, got {value!r}")
        return value
    if default is None:
        raise ProfileError(f"{where}: {' or '.join(keys)} is missing; add it, or name a known model instead")
    return default


def _reject_unlike_layers(data: Mapping[str, Any], where: str) -> None:
    """Refuse what the formula would get wrong."""
    window = data.get("sliding_window") if data.get("use_sliding_window", True) else None
    kinds = {kind for kind in data.get("layer_types") or [] if kind != "full_attention"}
    quantization = (data.get("quantization_config") or {}).get("quant_method", "")
    for wrong, what in (
        ("kv_lora_rank" in data, "kv_lora_rank: latent attention"),
        (window is not None, f"sliding_window {window}: attention over a window"),
        (bool(kinds), f"layer_types {', '.join(sorted(map(str, kinds)))}: other attention than over the whole context"),
        (data.get("mlp_only_layers") or data.get("decoder_sparse_step", 1) != 1, "experts in some layers only"),
        (quantization not in ("", "fp8"), f"quantization_config {quantization!r}: weights in another format"),
    ):
        if wrong:
            raise ProfileError(f"{where}: {what} is not estimated; profile the engine itself, or use another model")
