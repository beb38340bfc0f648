"""Fit iteration times to an engine's log of steps, whatever batches it happened to run.

    step = constant + matrix(decodes + chunk) + a * decodes + b * kv + c * chunk * context

`matrix` is piecewise linear with slopes >= 0, and so is every other term: the fit can't fall where an engine doesn't.
Least squares of relative errors, large ones bounded (Huber), with a ridge towards a prior: a profile of the same form
scaled to the log. What the log determines it overrules the prior in, what it never shows (all steps alike, no long
prompt) the prior decides, and a warning says so. Plain least squares has no answer there and blows up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from polyslo.core.profile import Profile
from polyslo.measure.noise import Noise
from polyslo.measure.steps_file import Steps
from polyslo.profiles.library import parse_profile

FloatArray = npt.NDArray[np.float64]

KNOTS_TOKENS = np.array([0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768], dtype=np.float64)
RIDGE_RATIO = 1e-4  # of the data's weight, for each coefficient
RIDGE_STEPS = 3.0  # and as much as so many steps
HUBER_RATIO = 0.1  # relative errors beyond it count linearly
NUM_REWEIGHTED = 8
NUM_SWEEPS = 500
NUM_BLOCKS = 25  # of time; every fifth is held out
MIN_VARIATION = 0.05  # of a quantity, standard deviation over mean, for its term to be told apart
_TERMS = ("KV tokens", "chunk tokens", "chunk tokens x context")


@dataclass(frozen=True, slots=True)
class StepFit:
    """A fit: the points that it makes a profile of, its errors on steps that it did not see, and what is doubtful."""

    content: dict[str, Any]
    held_out_errors: FloatArray  # (predicted - measured) / measured
    warnings: list[str]


def fit_steps(steps: Steps, prior: Profile) -> StepFit:
    """Fit a log; the errors are of a fit to four fifths of its time, the points of one to all of it."""
    held_out = np.arange(len(steps)) * NUM_BLOCKS // len(steps) % 5 == 4
    trial = _profile(_points(_fit(steps.where(~held_out), prior), steps))
    unseen = steps.where(held_out)
    errors = np.array([trial.iteration_s(*where) for where in _places(unseen)]) / unseen.step_s - 1.0
    noise = Noise.of(_spreads(steps), [])
    points = _points(_fit(steps, prior), steps)
    return StepFit({"noise": dict(noise.facts), **points}, errors, [*noise.warnings, *_unseen_terms(steps)])


def _places(steps: Steps) -> list[tuple[int, int, float, float]]:
    columns = (steps.decodes.astype(int), steps.chunk.astype(int), steps.kv_tokens, steps.context)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _features(decodes: FloatArray, chunk: FloatArray, kv_tokens: FloatArray, context: FloatArray) -> FloatArray:
    """Return what the coefficients multiply, (n, coefficients)."""
    tokens = np.clip((decodes + chunk)[:, None] - KNOTS_TOKENS[:-1], 0.0, np.diff(KNOTS_TOKENS))
    return np.column_stack([np.ones(len(decodes)), tokens, decodes, kv_tokens, chunk * context])


def _fit(steps: Steps, prior: Profile) -> FloatArray:
    """Return the coefficients, each >= 0."""
    x = _features(steps.decodes, steps.chunk, steps.kv_tokens, steps.context) / steps.step_s[:, None]
    expected = _prior_coefficients(steps, prior)
    found, weights = expected, np.ones(len(steps))
    for _ in range(NUM_REWEIGHTED):
        found = _ridge(x, weights, expected, found)
        errors = np.abs(x @ found - 1.0)
        weights = np.minimum(1.0, HUBER_RATIO / np.maximum(errors, 1e-12))
    return found


def _ridge(x: FloatArray, weights: FloatArray, expected: FloatArray, start: FloatArray) -> FloatArray:
    """Minimize `sum w (x b - 1)^2 + sum ridge (b - expected)^2` over b >= 0, one coefficient at a time.

    Columns are scaled so that a coefficient of 1 explains a typical step: the ridge weighs all of them alike.
    """
    scale = np.maximum(np.sqrt(np.mean(x * x, axis=0)), 1e-9 / np.maximum(expected, 1e-30))
    scaled = x / scale
    ridge = RIDGE_RATIO * weights.sum() + RIDGE_STEPS
    gram = (scaled * weights[:, None]).T @ scaled + ridge * np.eye(x.shape[1])
    right = scaled.T @ weights + ridge * expected * scale
    b = start * scale
    for _ in range(NUM_SWEEPS):
        moved = 0.0
        for j in range(len(b)):
            new = max(0.0, b[j] + (right[j] - gram[j] @ b) / gram[j, j])
            moved = max(moved, abs(new - b[j]))
            b[j] = new
        if moved < 1e-6:
            break
    return b / scale


def _prior_coefficients(steps: Steps, prior: Profile) -> FloatArray:
    """Return the prior's coefficients, scaled so that it explains the median step."""
    foreseen = np.array([prior.iteration_s(*where) for where in _places(steps)])
    scale = float(np.median(steps.step_s / foreseen))
    at_knots = np.array([prior.iteration_s(0, int(k), 0.0, 0.0) for k in KNOTS_TOKENS[1:]])
    constant = prior.iteration_s(0, 1, 0.0, 0.0)
    slopes = np.maximum(np.diff(np.concatenate([[constant], at_knots])), 0.0) / np.diff(KNOTS_TOKENS)
    many = 64
    empty_s, full_s = prior.iteration_s(many, 0, 0.0, 0.0), prior.iteration_s(many, 0, 64_000.0, 0.0)
    each = max(0.0, empty_s - prior.iteration_s(0, many, 0.0, 0.0)) / many
    pair = float(prior.physics["prefill_s_per_pair"][0])
    return scale * np.array([constant, *slopes, each, max(0.0, full_s - empty_s) / 64_000.0, pair])


def _points(found: FloatArray, steps: Steps) -> dict[str, list[dict[str, float]]]:
    """Return the fit's times on a grid over what the log has seen."""
    decodes = _doublings(1, max(4.0, steps.decodes.max()))
    contexts = _doublings(64, max(1024.0, float((steps.kv_tokens / np.maximum(steps.decodes, 1)).max())))
    largest_kv = max(float(steps.kv_tokens.max()), decodes[-1] * contexts[0] * 2)
    chunks = _doublings(16, max(512.0, steps.chunk.max()))
    prefixes = [0, *_doublings(1024, max(4096.0, float((steps.context + steps.chunk).max())))]
    decode = [(n, k) for n in decodes for k in contexts if n * k <= largest_kv]
    prefill = [(c, p) for c in chunks for p in prefixes]
    n, k = np.array(decode, dtype=np.float64).T
    c, p = np.array(prefill, dtype=np.float64).T
    none_n, none_c = np.zeros(len(n)), np.zeros(len(c))
    decode_ms = 1e3 * _features(n, none_n, n * k, none_n) @ found
    prefill_ms = 1e3 * _features(none_c, c, none_c, p + c / 2) @ found
    return {
        "decode": [
            {"decodes": a, "context": b, "ms": round(float(t), 5)}
            for (a, b), t in zip(decode, decode_ms, strict=True)
        ],
        "prefill": [
            {"chunk": a, "prefix": b, "ms": round(float(t), 5)}
            for (a, b), t in zip(prefill, prefill_ms, strict=True)
        ],
    }  # fmt: skip


def _doublings(first: int, last: float) -> list[int]:
    """Return first, twice that, ... and the last."""
    found = [first]
    while 2 * found[-1] < last:
        found.append(2 * found[-1])
    return [*found, round(last)] if last > found[-1] else found


def _profile(points: dict[str, list[dict[str, float]]]) -> Profile:
    content = {"kv_capacity_tokens": 1, "kv_bytes_per_token": 1, **points}
    return parse_profile(content, "fit", where="the fit of the steps").profile


def _spreads(steps: Steps) -> list[float]:
    """Return how far steps that are nearly alike spread: half of the middle half over the median, a group each."""
    columns = (steps.decodes, steps.chunk, steps.kv_tokens, steps.chunk * steps.context)
    keys = np.column_stack([np.round(np.log1p(column) / np.log(1.05)) for column in columns])
    _, group = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(group, kind="stable")
    parts = np.split(steps.step_s[order], np.flatnonzero(np.diff(group[order])) + 1)
    quartiles = [np.percentile(part, (25, 50, 75)) for part in parts if len(part) >= 8]
    return [float((high - low) / 2 / middle) for low, middle, high in quartiles] or [0.0]


def _unseen_terms(steps: Steps) -> list[str]:
    """Say which terms the log can't tell."""
    seen = (steps.kv_tokens, steps.chunk, steps.chunk * steps.context)
    return [
        f"the log hardly varies in {name}: how times grow with it is the prior's, not the engine's"
        for name, column in zip(_TERMS, seen, strict=True)
        if column.std() <= MIN_VARIATION * column.mean() or not column.any()
    ]
