"""What the next step of a real engine carries: its chunk budget in tokens, and who sits it out.

The chunk is `core.chunking.plan_chunk`, as in belief and simulator, over the prompts in the order that the engine
will take them. Best-effort requests come last and yield (ours): they join a step only when all others got what
they had to get, decodes before prompts, as far as time is left. Memory is the engine's own business.

Leaves the order to `slo_order.py` and everything of vLLM's to `vllm.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from polyslo.compiled import compiled
from polyslo.core.chunking import plan_chunk
from polyslo.core.profile import Profile, iteration_s
from polyslo.core.state import NONE

_UNBOUNDED_TOKENS = 1 << 40  # memory is bounded by the engine, which knows its blocks and its prefix cache

PROMPT = np.dtype(
    [
        ("next", np.int64),
        ("prefill_tokens", np.int64),
        ("remaining_tokens", np.int64),
        ("first_due_s", np.float64),
    ],
    align=True,
)
BATCH = np.dtype(
    [
        ("budget_s", np.float64),
        ("num_decodes", np.int64),
        ("decode_kv_tokens", np.int64),
        ("chunk_limit", np.int64),
        ("kv_capacity_tokens", np.int64),
        ("kv_tokens", np.int64),
        ("queue_head", np.int64),
    ],
    align=True,
)


@dataclass(slots=True)
class Decodes:
    """Requests that get one token a step: how many, the KV tokens they hold, and their tokens in the step."""

    num: int = 0
    kv_tokens: int = 0
    step_tokens: int = 0  # more than `num` with speculative decoding

    def add(self, kv_tokens: int, step_tokens: int) -> None:
        """Count one more."""
        self.num += 1
        self.kv_tokens += kv_tokens
        self.step_tokens += step_tokens


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of which `done_tokens` have their KV and `remaining_tokens` don't."""

    done_tokens: int
    remaining_tokens: int
    first_due_s: float


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The next step: prompt tokens, and how many of the best-effort decodes join it, from the first on."""

    chunk: int
    num_yielding: int


class StepPlanner:
    """Plans steps of at most `token_limit` tokens and `most_residents` requests."""

    def __init__(self, profile: Profile, *, token_limit: int, most_residents: int) -> None:
        self.profile = profile
        self.token_limit = token_limit
        self._most_residents = most_residents
        self._prompts = np.zeros(most_residents, dtype=PROMPT)
        self._batch = np.zeros(1, dtype=BATCH)
        self._batch["kv_capacity_tokens"] = _UNBOUNDED_TOKENS
        self._kv = np.zeros(most_residents, dtype=np.int64)
        self.plan(0.1, Decodes(1, 1, 1), [Prompt(0, 1, math.inf)], 0.0, [1], [Prompt(0, 1, math.inf)])  # compiles

    def plan(
        self,
        budget_s: float,
        decodes: Decodes,
        prompts: Sequence[Prompt],
        now_s: float,
        yielding_kv: Sequence[int] = (),
        yielding_prompts: Sequence[Prompt] = (),
    ) -> StepPlan:
        """Plan a step that begins at `now_s` and lasts at most `budget_s` (inf: unbounded).

        `prompts` are in the order in which they run; `yielding_kv` holds the KV tokens of each best-effort decode.
        """
        chunk, pairs = self._chunk(budget_s, decodes.num, decodes.kv_tokens, prompts, now_s)
        if not yielding_kv and not yielding_prompts:
            return StepPlan(chunk, 0)
        if chunk < sum(prompt.remaining_tokens for prompt in prompts):
            return StepPlan(chunk, 0)
        slots = self._most_residents - decodes.num - len(prompts)
        count = max(0, min(len(yielding_kv), slots, self.token_limit - decodes.step_tokens - chunk))
        self._kv[:count] = yielding_kv[:count]
        joining = int(_joining(self.profile.handle, self._batch, self._kv[:count], chunk, pairs))
        kv_tokens = decodes.kv_tokens + int(self._kv[:joining].sum())
        every = [*prompts, *yielding_prompts]
        chunk, _ = self._chunk(budget_s, decodes.num + joining, kv_tokens, every, now_s)
        return StepPlan(chunk, joining)

    def _chunk(
        self, budget_s: float, num_decodes: int, kv_tokens: int, prompts: Sequence[Prompt], now_s: float
    ) -> tuple[int, float]:
        count = min(len(prompts), self._most_residents)
        batch = self._batch[0]
        batch["budget_s"] = budget_s
        batch["num_decodes"] = num_decodes
        batch["decode_kv_tokens"] = kv_tokens
        batch["chunk_limit"] = self.token_limit
        batch["queue_head"] = 0 if count else NONE
        for k in range(count):
            prompt = prompts[k]
            whole = prompt.done_tokens + prompt.remaining_tokens
            following = k + 1 if k + 1 < count else NONE
            self._prompts[k] = (following, whole, prompt.remaining_tokens, prompt.first_due_s)
        chunk, pairs = _plan(self.profile.handle, self._prompts, self._batch, self._most_residents, now_s)
        return int(chunk), float(pairs)


@compiled
def _plan(
    profile: Profile, prompts: npt.NDArray[np.void], batch: npt.NDArray[np.void], most_residents: int, now_s: float
) -> tuple[int, float]:
    return plan_chunk(profile, prompts, batch[0], most_residents, now_s)


@compiled
def _joining(
    profile: Profile, batches: npt.NDArray[np.void], kv_tokens: npt.NDArray[np.int64], chunk: int, pairs: float
) -> int:
    """Return how many decodes more fit into the budget, from the first on, whose KV tokens are given."""
    batch: Any = batches[0]
    kv, count = batch.decode_kv_tokens, 0
    context = pairs / chunk if chunk > 0 else 0.0
    while count < kv_tokens.shape[0]:
        kv += kv_tokens[count]
        if iteration_s(profile, batch.num_decodes + count + 1, chunk, float(kv), context) > batch.budget_s:
            break
        count += 1
    return count
