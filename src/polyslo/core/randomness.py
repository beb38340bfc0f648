"""Random numbers from a state that is passed in: SplitMix64 (Steele, Lea, Flood 2014), the same everywhere."""

from __future__ import annotations

import numpy as np

from polyslo.compiled import compiled

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


@compiled
def next_state(state: np.uint64) -> np.uint64:
    """Return the state after `state`."""
    return np.uint64(state + _GOLDEN)


@compiled
def uniform(state: np.uint64) -> float:
    """Return the number in [0, 1) that belongs to a state."""
    z = np.uint64(state)
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) * (1.0 / 9007199254740992.0)
