"""Output lengths, learned while serving: a histogram a tier, conditioned on what was already emitted.

The paper uses each tier's mean; a stale mean was the largest single error that a port found. So lengths are
learned from finished requests, old ones fade (the weights are halved whenever a tier has seen 4,096), and a
request that outlives its estimate gets the mean of those that lived longer.
"""

from __future__ import annotations

import math

from polyslo.compiled import compiled
from polyslo.core.state import LENGTH_BINS, MEAN, Fleet

PRIOR_TOKENS = 256.0  # the expected output before any request has finished
PRIOR_WEIGHT = 4.0  # in finished requests
FADE_AT_WEIGHT = 4096.0


@compiled
def length_bin(tokens: int) -> int:
    """Return the bin of an output length: four an octave."""
    return min(LENGTH_BINS - 1, int(4.0 * math.log2(max(1.0, float(tokens)))))


@compiled
def learn_length(fleet: Fleet, tier: int, tokens: int) -> None:
    """Count a finished request."""
    fleet.length_weight[tier, length_bin(tokens)] += 1.0
    fleet.length_tokens[tier, length_bin(tokens)] += tokens
    weight = 0.0
    for index in range(LENGTH_BINS):
        weight += fleet.length_weight[tier, index]
    if weight > FADE_AT_WEIGHT:
        for index in range(LENGTH_BINS):
            fleet.length_weight[tier, index] *= 0.5
            fleet.length_tokens[tier, index] *= 0.5


@compiled
def expected_length(fleet: Fleet, tier: int, emitted: int, max_tokens: int) -> int:
    """Return the expected total output of a request that has emitted `emitted` tokens, in tokens.

    More than `emitted`, at most `max_tokens`. With `MEAN` the emitted tokens only raise the tier's mean.
    """
    first = 0 if fleet.settings[0].lengths == MEAN else length_bin(emitted + 1)
    weight, tokens = 0.0, 0.0
    if first <= length_bin(int(PRIOR_TOKENS)):
        weight, tokens = PRIOR_WEIGHT, PRIOR_WEIGHT * PRIOR_TOKENS
    for index in range(first, LENGTH_BINS):
        weight += fleet.length_weight[tier, index]
        tokens += fleet.length_tokens[tier, index]
    mean = tokens / weight if weight > 0.0 else 1.5 * emitted
    return min(max_tokens, max(emitted + 1, math.ceil(mean)))
