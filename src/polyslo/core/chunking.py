"""Which prompt tokens the next iteration carries: the chunk budget, spent along the prefill queue.

Dynamic chunking (PolyServe): the budget is the largest chunk that keeps the iteration within the instance's
TPOT. A constant chunk (vLLM's `max_num_batched_tokens`) is the same rule without a time. Engine, router and
forecast call this one function, so that predictions are right by construction.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from polyslo.compiled import compiled
from polyslo.core.profile import Profile, decode_attention_s, largest_chunk
from polyslo.core.state import NONE

SMALLEST_CHUNK = 16  # an instance without decodes always gets on, however small its budget


@compiled
def plan_chunk(
    profile: Profile,
    requests: npt.NDArray[np.void],
    queue_head: int,
    decodes: int,
    decode_kv_tokens: int,
    budget_s: float,
    limit: int,
    slots: int,
) -> tuple[int, float]:
    """Take the next iteration's prompt tokens off the queue; return (chunk, token pairs).

    `requests` is any record array with `next`, `prefill_tokens` and `remaining_tokens`, the last of which is
    lowered. At most `limit` tokens of at most `slots` prompts; `budget_s` bounds the whole iteration.
    """
    spare_s = budget_s - profile.physics[0].host_s - decode_attention_s(profile, decodes, decode_kv_tokens)
    chunk, pairs, r = 0, 0.0, queue_head
    while r != NONE and chunk < limit and slots > 0:
        remaining = requests[r].remaining_tokens
        if remaining > 0:
            done = requests[r].prefill_tokens - remaining
            take = min(remaining, limit - chunk)
            if math.isfinite(budget_s):
                left_s = spare_s - profile.physics[0].prefill_s_per_pair * pairs
                take = largest_chunk(profile, left_s, decodes + chunk, done, take)
                if chunk == 0 and take == 0 and decodes == 0:
                    take = min(remaining, limit, SMALLEST_CHUNK)
            if take == 0:
                break
            requests[r].remaining_tokens = remaining - take
            chunk += take
            pairs += take * (done + 0.5 * take)
            slots -= 1
            if take < remaining:
                break
        r = requests[r].next
    return chunk, pairs
