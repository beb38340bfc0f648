"""How many tokens an emulated model answers with, where a request leaves it open.

Drawn by a rank that belongs to the prompt, so that a request has the same length on whichever engine it runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyslo.errors import ConfigError
from polyslo.workload.model import load_model, shipped_models
from polyslo.workload.normal import score_of

FORMS = ("TOKENS", "lognormal:MEAN:SIGMA", "WORKLOAD")
DEFAULT = "lognormal:256:0.8"
_NUM_DRAWS = 8192
_NUM_NEAR = 256  # outputs are drawn from those of so many prompts of about the same length
_MAX_TOKENS = 10**7


@dataclass(frozen=True, slots=True, eq=False)
class OutputLengths:
    """Lengths by a prompt's length and rank."""

    input_tokens: npt.NDArray[np.int64]  # (n,) rising
    output_tokens: npt.NDArray[np.int64]  # (n,) of the same requests

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> OutputLengths:
        """Read `FORMS`; a workload is the name of a shipped one or a file. Raises `ConfigError` for others."""
        if text.isdigit():
            return cls(np.ones(1, dtype=np.int64), _bounded(np.array([float(text)])))
        if text.startswith("lognormal:"):
            return _lognormal(text)
        if not text.endswith(".json") and text not in shipped_models():
            raise ConfigError(
                f"--output-lengths: must be one of {', '.join(FORMS)}, got {text!r}; "
                f"workloads are {', '.join(shipped_models())}"
            )
        drawn = load_model(text).lengths.draw(_NUM_DRAWS, np.random.default_rng(seed))
        order = np.argsort(drawn[0], kind="stable")
        return cls(drawn[0][order].astype(np.int64), drawn[1][order].astype(np.int64))

    def tokens(self, input_tokens: int, rank: float) -> int:
        """Return the length of an output, at least 1, for a rank in [0, 1)."""
        near = min(_NUM_NEAR, len(self.input_tokens))
        middle = int(np.searchsorted(self.input_tokens, input_tokens)) if near < len(self.input_tokens) else 0
        first = max(0, min(len(self.input_tokens) - near, middle - near // 2))
        return int(self.output_tokens[first + int(rank * near)])


def _lognormal(text: str) -> OutputLengths:
    try:
        mean, sigma = (float(part) for part in text.split(":")[1:])
    except ValueError:
        mean = sigma = math.nan
    if not (1 <= mean <= _MAX_TOKENS and 0 <= sigma <= 4):
        raise ConfigError(
            f"--output-lengths: lognormal:MEAN:SIGMA takes a mean from 1 to {_MAX_TOKENS:,} tokens and a sigma from "
            f"0 to 4, got {text!r}; e.g. {DEFAULT}"
        )
    ranks = (np.arange(_NUM_NEAR) + 0.5) / _NUM_NEAR
    drawn = np.exp(math.log(mean) - 0.5 * sigma**2 + sigma * score_of(ranks))
    drawn *= mean / drawn.mean()  # 256 quantiles lose a little of the tail
    return OutputLengths(np.ones(_NUM_NEAR, dtype=np.int64), _bounded(drawn))


def _bounded(tokens: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.clip(np.rint(tokens), 1, _MAX_TOKENS).astype(np.int64)
