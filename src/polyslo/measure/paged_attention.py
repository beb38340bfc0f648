"""Attention of decodes over a paged KV cache, in PyTorch: every KV token is read through a block table.

With Triton on a GPU, one kernel reads the pages in place, each sequence split over several programs as FlashDecoding
does, so that a batch of one fills the GPU too. Without Triton, pages are gathered into one tensor first and given to
PyTorch's attention: the same bytes are read, and as many written and read again, so times are upper bounds.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

PAGE_TOKENS = 16
BLOCK_TOKENS = 64  # that one turn of the kernel's loop reads
PROGRAMS_PER_PROCESSOR = 4  # about as many of the kernel's programs as keep a GPU busy
MOST_SPLITS = 64

GATHERED, IN_PLACE = "gathered pages", "a Triton kernel on the pages in place"


def attention_kind(device: Any) -> str:
    """Return how decodes attend on a device."""
    return IN_PLACE if device.type == "cuda" and find_spec("triton") is not None else GATHERED


def attend_gathered(query: Any, keys: Any, values: Any, table: Any, lengths: Any) -> Any:
    """Attend with `query` (n, heads, dim) over pages (pages, PAGE_TOKENS, kv heads, dim).

    `table` (n, pages a sequence) lists each sequence's pages, `lengths` (n,) how many of their tokens count.
    """
    import torch

    num, heads, dim = query.shape
    found = [cache[table].flatten(1, 2).transpose(1, 2) for cache in (keys, values)]  # (n, kv heads, tokens, dim)
    mask = torch.arange(found[0].shape[2], device=query.device)[None, :] < lengths[:, None]
    return torch.nn.functional.scaled_dot_product_attention(
        query[:, :, None, :], found[0], found[1], attn_mask=mask[:, None, None, :], enable_gqa=True
    ).reshape(num, heads, dim)


def num_splits(num_sequences: int, num_kv_heads: int, num_processors: int, tokens: int) -> int:
    """Return over how many programs each sequence and KV head is split."""
    wanted = -(-PROGRAMS_PER_PROCESSOR * num_processors // (num_sequences * num_kv_heads))
    return max(1, min(wanted, MOST_SPLITS, -(-tokens // BLOCK_TOKENS)))


def attend_in_place(query: Any, keys: Any, values: Any, table: Any, lengths: Any, splits: int) -> Any:
    """Do what `attend_gathered` does without copying a page; `splits` as `num_splits` says."""
    import torch

    from polyslo.measure.paged_kernel import attend_split

    num, heads, dim = query.shape
    sums = torch.empty((num, heads, splits, dim), dtype=torch.float32, device=query.device)
    peaks = torch.empty((num, heads, splits), dtype=torch.float32, device=query.device)
    totals = torch.empty_like(peaks)
    attend_split(query.contiguous(), keys, values, table, lengths, sums, peaks, totals)
    weights = torch.exp(peaks - peaks.amax(dim=2, keepdim=True))  # a split without tokens has a peak of -inf
    mixed = (sums * weights[..., None]).sum(dim=2) / (totals * weights).sum(dim=2)[..., None]
    return mixed.to(query.dtype)
