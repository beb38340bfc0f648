"""Prompt and output lengths as quantile tables, with the tie between the two.

A rank correlation alone is not enough: in the Azure conversation trace the median output is 76 tokens for
the second tenth of prompts, 406 for the sixth and 58 for the longest, while the correlation is 0.07. So
prompts are cut into strata of equal share, each with its own output quantiles, and inside a stratum a
Gaussian copula keeps the rank correlation. Ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from polyslo.errors import InputError
from polyslo.workload.normal import rank_of

NUM_STRATA = 16
MIN_STRATUM_REQUESTS = 200  # fewer than this say little about a tail: use fewer strata

_LOW = (0.0, 0.001, 0.0025, 0.005, 0.0075)
INPUT_PROBABILITIES = (
    *_LOW,
    *(round(0.01 * step, 4) for step in range(1, 100)),
    *(0.9925, 0.995, 0.9975, 0.999, 0.9995, 0.9999, 1.0),
)
OUTPUT_PROBABILITIES = (
    *(0.0, 0.005, 0.01, 0.02, 0.03, 0.04),
    *(round(0.05 * step, 4) for step in range(1, 20)),
    *(0.96, 0.97, 0.98, 0.985, 0.99, 0.9925, 0.995, 0.9965, 0.998, 0.999, 1.0),
)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A distribution of tokens: `tokens[i]` at `probabilities[i]`, linear between.

    A draw is rounded to the nearest whole number, at least 1; bounds a - 0.5 and b + 0.5 make a..b uniform.
    """

    probabilities: tuple[float, ...]
    tokens: tuple[float, ...]

    def __post_init__(self) -> None:
        p, t = np.asarray(self.probabilities), np.asarray(self.tokens)
        if p.shape != t.shape or len(p) < 2 or p[0] != 0 or p[-1] != 1:
            raise InputError("quantiles: need as many tokens as probabilities, from 0 to 1, at least 2")
        if not (np.diff(p) > 0).all() or not (np.diff(t) >= 0).all() or not t[0] >= 0.5:
            raise InputError("quantiles: probabilities and tokens must ascend, tokens from 0.5")

    @classmethod
    def fit(cls, tokens: NDArray[np.int32], probabilities: tuple[float, ...]) -> Self:
        """Take the quantiles of `tokens` [n >= 1]."""
        # Hazen's plotting positions: the default ones lose half of the longest request
        found = np.quantile(tokens, probabilities, method="hazen")
        return cls(probabilities, tuple(round(float(value), 1) for value in found))

    def at(self, rank: NDArray[np.float64]) -> NDArray[np.int32]:
        """Tokens at each rank in [0, 1]."""
        drawn = np.floor(np.interp(rank, self.probabilities, self.tokens) + 0.5)
        return np.maximum(1, drawn).astype(np.int32)

    @property
    def mean(self) -> float:
        """Mean tokens."""
        return float(np.trapezoid(self.tokens, self.probabilities))


@dataclass(frozen=True, slots=True)
class Lengths:
    """The joint distribution of prompt and output tokens.

    `outputs[s]` holds for the prompts of stratum s, ranks s/S to (s+1)/S of `input`; `rank_correlations[s]`
    in (-1, 1) is the correlation of the Gaussian copula inside the stratum.
    """

    input: Quantiles
    outputs: tuple[Quantiles, ...]
    rank_correlations: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.outputs or len(self.outputs) != len(self.rank_correlations):
            raise InputError("lengths: need one rank correlation for each stratum, and one stratum at least")
        if not all(-1 < rho < 1 for rho in self.rank_correlations):
            raise InputError("lengths: rank correlations must be above -1 and below 1")

    @classmethod
    def fit(cls, input_tokens: NDArray[np.int32], output_tokens: NDArray[np.int32]) -> Self:
        """Fit both margins and the tie between them; the arrays [n] are paired."""
        num_strata = int(np.clip(len(input_tokens) // MIN_STRATUM_REQUESTS, 1, NUM_STRATA))
        # equal prompts straddle strata: shuffle them (fixed seed), or the file's order would leak in
        shuffled = np.random.Generator(np.random.PCG64(0)).permutation(len(input_tokens))
        order = shuffled[np.argsort(input_tokens[shuffled], kind="stable")]
        parts = np.array_split(order, num_strata)
        return cls(
            Quantiles.fit(input_tokens, INPUT_PROBABILITIES),
            tuple(Quantiles.fit(output_tokens[part], OUTPUT_PROBABILITIES) for part in parts),
            tuple(_copula_correlation(input_tokens[part], output_tokens[part]) for part in parts),
        )

    def draw(self, num_requests: int, rng: np.random.Generator) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Draw `num_requests` independent pairs: prompt tokens, output tokens."""
        stratum = rng.integers(0, len(self.outputs), num_requests)
        z = rng.standard_normal(num_requests)
        rho = np.asarray(self.rank_correlations)[stratum]
        z_output = rho * z + np.sqrt(1 - rho**2) * rng.standard_normal(num_requests)
        rank_output = rank_of(z_output)
        output_tokens = np.empty(num_requests, np.int32)
        for index, output in enumerate(self.outputs):
            here = stratum == index
            output_tokens[here] = output.at(rank_output[here])
        input_tokens = self.input.at((stratum + rank_of(z)) / len(self.outputs))
        return input_tokens, output_tokens

    @property
    def mean_output_tokens(self) -> float:
        """Mean output over all strata."""
        return sum(output.mean for output in self.outputs) / len(self.outputs)


def spearman(first: NDArray[np.int32], second: NDArray[np.int32]) -> float:
    """Rank correlation of paired arrays [n]; equal values share their mean rank; 0 if one is constant."""
    ranks = _mean_ranks(first), _mean_ranks(second)
    if min(rank.std() for rank in ranks) == 0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _copula_correlation(first: NDArray[np.int32], second: NDArray[np.int32]) -> float:
    rho = 2 * math.sin(math.pi / 6 * spearman(first, second))  # exact for the Gaussian copula
    return round(max(-0.99, min(0.99, rho)), 3)


def _mean_ranks(values: NDArray[np.int32]) -> NDArray[np.float64]:
    _, index, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[index], np.float64)
