"""Fitting an engine's log of steps: right where the log says something, the prior's where not, never wild."""

from __future__ import annotations

import json

import numpy as np
import pytest

from polyslo.errors import InputError
from polyslo.measure.step_fit import fit_steps
from polyslo.measure.steps_file import Steps, read_steps
from polyslo.profiles.library import load_profile, parse_profile


def _steps(profile, count, *, seed=0, noise=0.03, identical=False):
    """Draw steps of an engine that keeps to a profile, one in a hundred of them five times as slow."""
    rng = np.random.default_rng(seed)
    decodes = rng.integers(1, 128, count).astype(float)
    kv = decodes * rng.integers(200, 4000, count)
    chunk = np.where(rng.random(count) < 0.5, rng.integers(1, 2048, count), 0).astype(float)
    if identical:
        decodes[:], kv[:], chunk[:] = 8, 9000, 0
    context = np.where(chunk > 0, rng.uniform(0, 8000, count) + chunk / 2, 0.0)
    places = zip(decodes, chunk, kv, context, strict=True)
    times = np.array([profile.iteration_s(int(n), int(c), float(k), float(p)) for n, c, k, p in places])
    times *= np.exp(noise * rng.standard_normal(count)) * np.where(rng.random(count) < 0.01, 5.0, 1.0)
    return Steps(decodes, chunk, kv, context, times)


def _errors(fit, profile, steps):
    measured = parse_profile({"kv_capacity_tokens": 1, "kv_bytes_per_token": 1, **fit.content}, "x", where="x").profile
    columns = (steps.decodes, steps.chunk, steps.kv_tokens, steps.context)
    return np.array([
        measured.iteration_s(int(n), int(c), k, p) / profile.iteration_s(int(n), int(c), k, p) - 1
        for n, c, k, p in zip(*columns, strict=True)
    ])  # fmt: skip


@pytest.fixture(scope="module")
def other():
    """A prior of another model on other GPUs."""
    return load_profile("llama-3.1-70b-h200-tp2").profile


def test_a_log_overrules_the_prior(profile, other):
    """With 3% of noise and outliers, batches are foreseen to 3% on average though the prior is another model's."""
    fit = fit_steps(_steps(profile, 1500), other)
    assert np.abs(_errors(fit, profile, _steps(profile, 300, seed=5))).mean() < 0.03
    assert np.median(np.abs(fit.held_out_errors)) < 0.04
    assert fit.warnings == []


def test_steps_all_alike_give_their_own_time_and_leave_the_rest_to_the_prior(profile, other):
    """Where plain least squares has no answer the fit stays bounded, and says which terms it did not see."""
    alike = _steps(profile, 400, identical=True, noise=0.001)
    fit = fit_steps(alike, other)
    assert np.abs(_errors(fit, profile, alike)).max() < 0.05
    assert np.abs(_errors(fit, profile, _steps(profile, 200, seed=5))).max() < 1.0
    assert len(fit.warnings) == 3
    assert "the log hardly varies in KV tokens" in fit.warnings[0]


def test_a_log_is_read_line_by_line(tmp_path):
    """A last line cut short is dropped, a wrong one is named, and too few steps are refused."""
    line = {"t": 1.0, "decodes": 4, "chunk": 0, "kv": 400, "context": 0.0, "step_s": 0.01}
    file = tmp_path / "steps.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for _ in range(250)) + '{"t": 1')
    assert len(read_steps(str(file))) == 250
    file.write_text(json.dumps(line) + "\n" + json.dumps({**line, "kv": -1}) + "\n" + json.dumps(line))
    with pytest.raises(InputError, match=r":2: must be an object"):
        read_steps(str(file))
    file.write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match="has 1 steps, at least 200"):
        read_steps(str(file))
