"""What is measured of a live endpoint: batches, contexts and chunks, within what the engine holds.

A batch is costly to prefill and cheap to shrink, so each context is prefilled once, with the largest batch, and
then decoded with fewer and fewer requests. Mixed iterations are measured on the way down and held out of the fit.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_CONTEXT_TOKENS = 64
CONTEXT_RATIO = 4
FIRST_CHUNK_TOKENS = 16
NUM_PREFIXES = 6
MAX_FULL_CHUNKS = 32  # of the longest prompt: its attention term is known well before
KV_SHARE = 0.85  # of the capacity that batches may fill: the rest is for what they decode meanwhile
PROBE_TOKENS = 16  # of the prompt whose decode shows the iterations
SETTLE_STEPS = 3  # after the batch has changed
AGAIN = "again: "  # tasks that are measured a second time at the end, to tell how far they repeat
STEPS_BESIDE = 36  # that pass while prompts are measured beside a batch


@dataclass(frozen=True, slots=True)
class MeasurePlan:
    """Bounds of a measurement. Tokens of context are a request's prompt and output together."""

    max_context_tokens: int
    kv_capacity_tokens: int
    max_decodes: int = 256
    num_steps: int = 32  # at each batch
    num_repeats: int = 5  # of each prompt
    chunk_tokens: int | None = None  # of an iteration; None: it is found out

    def contexts(self) -> list[int]:
        """Return the prompts' lengths of the decode grid, rising: ratio 4, and the longest."""
        longest = min(self.max_context_tokens, int(KV_SHARE * self.kv_capacity_tokens)) - self.spare_tokens
        found = []
        context = FIRST_CONTEXT_TOKENS
        while context < longest / 1.5:
            found.append(context)
            context *= CONTEXT_RATIO
        return [*found, longest]

    def batches(self, context_tokens: int) -> list[int]:
        """Return the batches at a context, falling: powers of two, from 16 on half way between too, and the largest.

        The same ones at every context: a profile's row is a batch at several of them.
        """
        room = int(KV_SHARE * self.kv_capacity_tokens) // (context_tokens + self.spare_tokens)
        steps = [2**k for k in range(14)] + [3 * 2**k for k in range(3, 13)]
        wanted = {n for n in steps if n < self.max_decodes} | {self.max_decodes}
        return sorted((n for n in wanted if n <= max(1, room)), reverse=True)

    @property
    def spare_tokens(self) -> int:
        """Tokens that the longest-lived request of a batch decodes at most, about."""
        return 10 * (self.num_steps + SETTLE_STEPS + STEPS_BESIDE) + 64

    def chunks(self, chunk_tokens: int) -> list[int]:
        """Return the prompts' lengths that are prefilled in one iteration beside one decode, rising."""
        longest = min(chunk_tokens - 1, self.max_context_tokens - 2)
        steps = [FIRST_CHUNK_TOKENS * 2**k for k in range(12)] + [6 * FIRST_CHUNK_TOKENS * 2**k for k in range(10)]
        return [*sorted(chunk for chunk in steps if chunk < longest / 1.2), longest]

    def full_chunks(self, chunk_tokens: int) -> int:
        """Return how many full chunks the longest prompt has."""
        return min(MAX_FULL_CHUNKS, (self.max_context_tokens - 2) // (chunk_tokens - 1))

    def mixed_chunks(self, context_tokens: int, chunk_tokens: int, decodes: int) -> list[int]:
        """Return the prompts' lengths that are measured beside a batch: at most the batch's own context."""
        if decodes < 2:
            return []
        return [chunk for chunk in (128, 512, 2048) if chunk <= min(context_tokens, chunk_tokens - decodes)]
