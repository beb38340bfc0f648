"""Which prompt tokens the next iteration carries: the chunk budget, spent along the prefill queue.

Dynamic chunking (PolyServe): the budget is the largest chunk that keeps the iteration within the instance's
TPOT. A constant chunk (vLLM's `max_num_batched_tokens`) is the same rule without a time. Engine, router and
forecast call this one function, so that predictions are right by construction.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from polyslo.compiled import compiled
from polyslo.core.profile import USUAL_CHUNK, Profile, decode_attention_s, iteration_s, largest_chunk
from polyslo.core.state import NONE

SMALLEST_CHUNK = 16  # an instance without decodes always gets on, however small its budget


@compiled
def plan_chunk(
    profile: Profile,
    requests: npt.NDArray[np.void],
    instance: Any,
    most_decodes: int,
    began_s: float,
) -> tuple[int, float]:
    """Take the next iteration's prompt tokens off an instance's queue; return (chunk, token pairs).

    `requests` is any record array with `next`, `prefill_tokens` and `remaining_tokens`, the last of which is
    lowered; `instance` an engine's record, or what belief holds of it. `budget_s` bounds the whole iteration,
    `chunk_limit` its tokens, the KV capacity what it may add, and `most_decodes` the prompts that may end.

    An iteration that began at `began_s` (inf: never cut) and ends prompts may be cut for them, see `is_cut`.

    A prompt begins only when there is room for all of it, and until then those behind it wait too, as with vLLM.
    (vLLM asks for room for the prompt's first chunk, which at its budgets mostly is the whole.) A prompt that begins
    in the last free corner takes the room into which the decodes grow: they evict each other, step after step.
    """
    budget_s, decodes = instance.budget_s, instance.num_decodes
    room = instance.kv_capacity_tokens - instance.kv_tokens - decodes
    limit = min(instance.chunk_limit - decodes, room)
    slots = most_decodes - decodes
    spare_s = budget_s - profile.physics[0].host_s - decode_attention_s(profile, decodes, instance.decode_kv_tokens)
    chunk, pairs, r = 0, 0.0, instance.queue_head
    while r != NONE and chunk < limit and slots > 0:
        remaining = requests[r].remaining_tokens
        if remaining > 0:
            done = requests[r].prefill_tokens - remaining
            if done == 0 and remaining > room - chunk:
                break
            take = min(remaining, limit - chunk)
            if math.isfinite(budget_s):
                left_s = spare_s - profile.physics[0].prefill_s_per_pair * pairs
                take = largest_chunk(profile, left_s, decodes + chunk, done, take, USUAL_CHUNK)
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
            due_in_s = requests[r].first_due_s - began_s
            if is_cut(profile, budget_s, due_in_s, decodes, chunk, instance.decode_kv_tokens, pairs):
                spare_s -= budget_s - due_in_s
                budget_s = due_in_s
        r = requests[r].next
    return chunk, pairs


@compiled
def is_cut(
    profile: Profile, length_s: float, due_in_s: float, decodes: int, chunk: int, kv_tokens: float, pairs: float
) -> bool:
    """Tell whether an iteration is cut to `due_in_s`, so that a prompt that ends with it has its first token in time.

    It is where filled up to `length_s` it would bring that token too late, and as it is now would not (ours).
    Otherwise a prompt with little time would always wait for what later ones fill its last iteration with.
    """
    if not 0.0 < due_in_s < length_s < math.inf:
        return False
    return iteration_s(profile, decodes, chunk, kv_tokens, pairs / chunk) <= due_in_s
