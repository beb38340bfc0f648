"""A dense decoder of a given shape with random weights, one forward pass at a time, in PyTorch.

What an engine's step computes: embeddings, grouped-query attention with rotary positions over a paged KV cache, gated
MLP, output head and greedy choice for each sequence. Decodes and one prompt's chunk share the matrix work; attention
is done for each kind. Plain kernels, not an engine's fused ones: small batches take somewhat longer than there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from polyslo.errors import ProfileError
from polyslo.measure.paged_attention import (
    IN_PLACE,
    PAGE_TOKENS,
    attend_gathered,
    attend_in_place,
    attention_kind,
    num_splits,
)
from polyslo.profiles.shapes import ModelShape

ROPE_BASE = 500_000.0


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of a layer, as `linear` takes them."""

    norm: Any
    qkv: Any
    out: Any
    mlp_norm: Any
    gate_up: Any
    down: Any


@dataclass(frozen=True, slots=True)
class Batch:
    """One step: `decodes` sequences of `context` KV tokens each, and a prompt's chunk behind `prefix` tokens.

    Tokens are ordered decodes first. A decode's own token is the last of its context.
    """

    decodes: int
    context: int
    chunk: int
    prefix: int
    tokens: Any  # (decodes + chunk,) ids
    positions: Any  # (decodes + chunk,)
    slots: Any  # (decodes + chunk,) where in the flat cache each token's KV goes
    table: Any  # (decodes, pages)
    lengths: Any  # (decodes,)
    chunk_pages: slice  # the prompt's, neighbours
    heads_of: Any  # (decodes + bool(chunk),) rows whose next token is chosen
    splits: int


class Decoder:
    """The model and its cache of `kv_tokens`."""

    def __init__(self, shape: ModelShape, device: Any, dtype: Any, kv_tokens: int) -> None:
        if shape.num_experts:
            raise ProfileError("profile torch: mixtures of experts are not timed; use a dense model, or measure vLLM")
        self.shape = shape
        self.device = device
        self.dtype = dtype
        self.attention = attention_kind(device)
        self.num_pages = -(-kv_tokens // PAGE_TOKENS)
        width = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
        self._embedding = self._random(shape.vocab_size, shape.hidden_size)
        self._head = self._embedding if shape.embeddings_tied else self._random(shape.vocab_size, shape.hidden_size)
        self._norm = torch.ones(shape.hidden_size, device=device, dtype=dtype)
        self._layers = [
            Layer(
                norm=self._norm,
                qkv=self._random(width, shape.hidden_size),
                out=self._random(shape.hidden_size, shape.num_heads * shape.head_dim),
                mlp_norm=self._norm,
                gate_up=self._random(2 * shape.intermediate_size, shape.hidden_size),
                down=self._random(shape.hidden_size, shape.intermediate_size),
            )
            for _ in range(shape.num_layers)
        ]
        pages = (shape.num_layers, self.num_pages, PAGE_TOKENS, shape.num_kv_heads, shape.head_dim)
        self.keys = torch.randn(pages, device=device, dtype=dtype)  # zeros could be read faster than numbers
        self.values = torch.randn(pages, device=device, dtype=dtype)
        half = torch.arange(0, shape.head_dim, 2, device=device, dtype=torch.float32) / shape.head_dim
        self._frequencies = ROPE_BASE**-half

    def batch(self, decodes: int, context: int, chunk: int, prefix: int) -> Batch:
        """Lay out a step: pages of sequences are spread over the cache, none is shared."""
        pages_each = -(-context // PAGE_TOKENS) if decodes else 0
        chunk_pages = -(-(prefix + chunk) // PAGE_TOKENS) if chunk else 0
        if decodes * pages_each + chunk_pages > self.num_pages:
            raise ProfileError(
                f"profile torch: a step of {decodes} x {context} and {prefix} + {chunk} tokens needs more than the "
                f"{self.num_pages * PAGE_TOKENS} KV tokens of the cache"
            )
        order = torch.randperm(self.num_pages - chunk_pages, device=self.device) + chunk_pages
        table = order[: decodes * pages_each].reshape(decodes, pages_each)
        last = torch.full((decodes,), context - 1, device=self.device)
        ahead = torch.arange(prefix, prefix + chunk, device=self.device)
        decode_slots = (
            table[:, (context - 1) // PAGE_TOKENS] * PAGE_TOKENS + (context - 1) % PAGE_TOKENS if decodes else last
        )
        return Batch(
            decodes, context, chunk, prefix,
            tokens=torch.randint(self.shape.vocab_size, (decodes + chunk,), device=self.device),
            positions=torch.cat([last, ahead]),
            slots=torch.cat([decode_slots, ahead]),
            table=table,
            lengths=last + 1,
            chunk_pages=slice(0, chunk_pages),
            heads_of=torch.arange(decodes + chunk, device=self.device)[_chosen(decodes, chunk)],
            splits=self._splits(decodes, context),
        )  # fmt: skip

    @torch.no_grad()
    def forward(self, batch: Batch) -> Any:
        """Run a step; return the next token of each sequence."""
        return self.logits(batch).argmax(dim=1)

    def logits(self, batch: Batch) -> Any:
        """Run a step; return (sequences, vocabulary) scores of the next tokens."""
        shape = self.shape
        hidden = functional.embedding(batch.tokens, self._embedding)
        angles = batch.positions[:, None].float() * self._frequencies
        cosine, sine = torch.cos(angles)[:, None, :].to(self.dtype), torch.sin(angles)[:, None, :].to(self.dtype)
        for index, layer in enumerate(self._layers):
            normed = functional.rms_norm(hidden, (shape.hidden_size,), layer.norm)
            qkv = functional.linear(normed, layer.qkv).view(len(hidden), -1, shape.head_dim)
            query, key, value = qkv.split((shape.num_heads, shape.num_kv_heads, shape.num_kv_heads), dim=1)
            query, key = _rotate(query, cosine, sine), _rotate(key, cosine, sine)
            self.keys[index].flatten(0, 1).index_copy_(0, batch.slots, key)
            self.values[index].flatten(0, 1).index_copy_(0, batch.slots, value)
            hidden = hidden + functional.linear(self._attend(index, batch, query), layer.out)
            normed = functional.rms_norm(hidden, (shape.hidden_size,), layer.mlp_norm)
            gate, up = functional.linear(normed, layer.gate_up).chunk(2, dim=1)
            hidden = hidden + functional.linear(functional.silu(gate) * up, layer.down)
        last = functional.rms_norm(hidden[batch.heads_of], (shape.hidden_size,), self._norm)
        return functional.linear(last, self._head)

    def _attend(self, index: int, batch: Batch, query: Any) -> Any:
        parts = []
        if batch.decodes:
            cache = (self.keys[index], self.values[index], batch.table, batch.lengths)
            decodes = query[: batch.decodes]
            parts.append(
                attend_in_place(decodes, *cache, batch.splits)
                if self.attention == IN_PLACE
                else attend_gathered(decodes, *cache)
            )
        if batch.chunk:
            parts.append(self._attend_chunk(index, batch, query[batch.decodes :]))
        return torch.cat(parts).flatten(1)

    def _attend_chunk(self, index: int, batch: Batch, query: Any) -> Any:
        """Attend with a chunk over its prompt so far; its pages are neighbours, so a view of them will do."""
        tokens = batch.prefix + batch.chunk
        keys, values = (
            cache[index, batch.chunk_pages].flatten(0, 1)[:tokens].transpose(0, 1)[None]
            for cache in (self.keys, self.values)
        )
        attended = functional.scaled_dot_product_attention(
            query.transpose(0, 1)[None],
            keys,
            values,
            attn_mask=causal_lower_right(batch.chunk, tokens) if batch.prefix else None,
            is_causal=not batch.prefix,
            enable_gqa=True,
        )
        return attended[0].transpose(0, 1)

    def _splits(self, decodes: int, context: int) -> int:
        if self.attention != IN_PLACE or not decodes:
            return 1
        processors = torch.cuda.get_device_properties(self.device).multi_processor_count
        return num_splits(decodes, self.shape.num_kv_heads, processors, context)

    def _random(self, rows: int, columns: int) -> Any:
        return torch.randn(rows, columns, device=self.device, dtype=self.dtype).mul_(columns**-0.5)


def _chosen(decodes: int, chunk: int) -> Any:
    """Return which rows of a step get a next token: every decode, and the chunk's last."""
    return torch.tensor([*range(decodes), *([decodes + chunk - 1] if chunk else [])])


def _rotate(states: Any, cosine: Any, sine: Any) -> Any:
    """Rotate pairs (first half, second half) of each head by its token's angles."""
    first, second = states.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
