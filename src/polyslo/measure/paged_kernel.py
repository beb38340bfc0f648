"""The Triton kernel of `paged_attention.py`: one split of one sequence's KV for the query heads of one KV head.

After FlashDecoding: a running peak and total of the softmax, sums that are scaled when the peak moves; the splits are
put together by the caller. Only this file imports Triton.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from polyslo.measure.paged_attention import BLOCK_TOKENS, PAGE_TOKENS

MIN_ROWS = 16  # tensor cores take no fewer; heads are padded to it


def attend_split(
    query: Any, keys: Any, values: Any, table: Any, lengths: Any, sums: Any, peaks: Any, totals: Any
) -> None:
    """Fill `sums`, `peaks` and `totals` of every (sequence, head, split)."""
    num, heads, splits, dim = sums.shape
    kv_heads = keys.shape[2]
    group = heads // kv_heads
    _attend_split[(num, kv_heads, splits)](
        query, keys, values, table, lengths, sums, peaks, totals,
        dim**-0.5, table.stride(0), keys.stride(0), keys.stride(1), keys.stride(2), splits,
        GROUP=group, ROWS=max(MIN_ROWS, triton.next_power_of_2(group)), DIM=dim, PAGE=PAGE_TOKENS,
        BLOCK=BLOCK_TOKENS, num_warps=4, num_stages=2,
    )  # fmt: skip


@triton.jit
def _attend_split(  # type: ignore[no-untyped-def]
    query, keys, values, table, lengths, sums, peaks, totals,
    scale, table_stride, page_stride, token_stride, head_stride, num_splits,
    GROUP: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sequence, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + sequence)
    per_split = tl.cdiv(tl.cdiv(length, num_splits), BLOCK) * BLOCK
    start = split * per_split
    end = tl.minimum(start + per_split, length)
    row = tl.arange(0, ROWS)
    column = tl.arange(0, DIM)
    head = (sequence * tl.num_programs(1) + kv_head) * GROUP + row
    is_head = row < GROUP
    q = tl.load(query + head[:, None] * DIM + column[None, :], mask=is_head[:, None], other=0.0)
    peak = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    found = tl.zeros((ROWS, DIM), tl.float32)
    for first in range(start, end, BLOCK):
        token = first + tl.arange(0, BLOCK)
        counts = token < end
        page = tl.load(table + sequence * table_stride + token // PAGE, mask=counts, other=0).to(tl.int64)
        where = page * page_stride + (token % PAGE) * token_stride + kv_head * head_stride
        k = tl.load(keys + where[None, :] + column[:, None], mask=counts[None, :], other=0.0)
        scores = tl.where(counts[None, :], tl.dot(q, k) * scale, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, axis=1))
        shrink = tl.exp(peak - higher)
        share = tl.exp(scores - higher[:, None])
        v = tl.load(values + where[:, None] + column[None, :], mask=counts[:, None], other=0.0)
        found = found * shrink[:, None] + tl.dot(share.to(v.dtype), v)
        total = total * shrink + tl.sum(share, axis=1)
        peak = higher
    place = head * num_splits + split
    tl.store(sums + place[:, None] * DIM + column[None, :], found, mask=is_head[:, None])
    tl.store(peaks + place, peak, mask=is_head)
    tl.store(totals + place, total, mask=is_head)
