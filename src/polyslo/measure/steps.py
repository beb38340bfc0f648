"""From tracks of streams to iteration times: medians that a late packet or a pause does not move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polyslo.errors import InputError
from polyslo.measure.track import Track

BLOCK_STEPS = 8  # arrival jitter of a millisecond becomes an eighth of one a step


class BlurredError(InputError):
    """Tokens came so that iterations can't be told apart: a busy machine's, mostly, and gone a moment later."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A time in seconds and how far its parts spread: half of their middle half, over the median."""

    time_s: float
    spread_ratio: float


def decode_step(tracks: Sequence[Track], marks: Sequence[int], num_steps: int) -> Measured:
    """Return the iteration time of a batch, from the tokens of each track behind its mark, about `num_steps`."""
    size = max(1, min(BLOCK_STEPS, num_steps // 2))
    blocks = [
        block_s
        for track, mark in zip(tracks, marks, strict=True)
        for block_s in track.block_steps_s(mark, track.num_tokens, size)
    ]
    return middle(blocks)


def middle(times_s: Sequence[float]) -> Measured:
    """Return the median of times and their spread; raises `BlurredError` for none."""
    if not times_s:
        raise BlurredError(
            "measure: tokens came so many at a time that no iteration can be told from the next; let the engine send "
            "each by itself, or take a larger --step-count"
        )
    low, median, high = np.percentile(np.asarray(times_s, dtype=np.float64), (25, 50, 75))
    return Measured(float(median), float((high - low) / 2 / median))
