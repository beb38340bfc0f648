"""Measuring an engine from outside, on virtual time: what comes out is what the engine keeps to."""

from __future__ import annotations

import numpy as np
import pytest

from measure.fakes import EmulatedBench, run_virtually
from polyslo.measure.document import measured_content, noise_of
from polyslo.measure.held_out import held_out_errors
from polyslo.measure.live import Measurement
from polyslo.measure.notebook import Notebook
from polyslo.measure.plan import AGAIN
from polyslo.measure.steps import middle
from polyslo.profiles.library import parse_profile

FACTS = {"kv_capacity_tokens": 60_000, "kv_bytes_per_token": 131_072}


def _measure(profile, plan, notebook, **settings):
    """Measure an emulated engine; return its bench, and the warnings."""
    found = []

    async def main():
        bench = EmulatedBench(profile, 0.0002, kv_capacity_tokens=60_000, **settings)
        measurement = Measurement(bench, plan, notebook, lambda done, total: None)
        await measurement.run()
        found.extend((bench, measurement.warnings))

    run_virtually(main)
    return found


def _error(measured, true, chunk_limit, max_decodes=16):
    """Return |error| of iterations inside what was measured, and of those with prompts."""
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(400):
        decodes, context = int(rng.integers(1, max_decodes + 1)), int(rng.integers(100, 3000))
        chunk = int(rng.integers(1, chunk_limit)) * int(rng.integers(0, 2))
        where = (decodes, chunk, decodes * context, float(rng.uniform(0, 2500)) + chunk / 2)
        errors.append(abs(measured.iteration_s(*where) / true.iteration_s(*where) - 1))
    return np.array(errors)


def test_a_measured_profile_is_the_engines_own(profile, plan, tmp_path):
    """The chunk is found, and iterations of any batch are foreseen to 1% on average and 5% at worst."""
    notebook = Notebook(tmp_path / "state", {})
    _, warnings = _measure(profile, plan, notebook, max_num_batched_tokens=700)
    assert notebook.done["chunk"] == 700
    named = parse_profile(measured_content(notebook.done, FACTS), "mine", where="mine.json")
    errors = _error(named.profile, profile, 700)
    assert errors.mean() < 0.01
    assert errors.max() < 0.05
    held_out = held_out_errors(named)
    assert set(held_out) == {"decode, each point left out", "prefill, each point left out", "mixed, in no fit"}
    assert np.abs(held_out["mixed, in no fit"]).max() < 0.05
    assert warnings == []


def test_an_engine_that_splits_no_prompt_is_warned_of(profile, plan, tmp_path):
    """A chunk as large as the longest prompt, and decodes that wait for whole prompts, look alike from outside."""
    longest = plan.max_context_tokens - 2
    _, (warning,) = _measure(profile, plan, Notebook(tmp_path / "state", {}), max_num_batched_tokens=2 * longest)
    assert warning.startswith(f"a prompt of {longest:,} tokens was computed between two tokens")


def test_attention_to_what_was_prefilled_before_is_told_apart(profile, plan, tmp_path):
    """The seconds per token pair come out of long prompts' later chunks, to 5%."""
    notebook = Notebook(tmp_path / "state", {})
    _measure(profile, plan, notebook, max_num_batched_tokens=512)
    measured = parse_profile(measured_content(notebook.done, FACTS), "mine", where="mine.json").profile
    expected = profile.physics["prefill_s_per_pair"][0]
    assert measured.physics["prefill_s_per_pair"][0] == pytest.approx(expected, rel=0.05)


def test_an_engine_that_runs_fewer_at_a_time_is_measured_with_those(profile, plan, tmp_path):
    """Requests that wait for others to end are taken back; no batch is larger than the engine's."""
    notebook = Notebook(tmp_path / "state", {})
    bench, _ = _measure(profile, plan, notebook, max_num_batched_tokens=700, max_num_seqs=6)
    largest = {row[0] for found in notebook.done.values() if isinstance(found, dict) for row in found.get("decode", ())}
    assert max(largest) == 6
    assert bench.engine.num_residents == 0


def test_what_the_notebook_has_is_not_measured_again(profile, plan, tmp_path):
    """A second run over a part of the first one's state measures what is missing, and comes to the same."""
    first = Notebook(tmp_path / "state", {"url": "a"})
    bench, _ = _measure(profile, plan, first, max_num_batched_tokens=700)
    lines = (tmp_path / "state").read_text().splitlines(keepends=True)
    (tmp_path / "state").write_text("".join(lines[:-2]) + lines[-2][:40])
    second = Notebook(tmp_path / "state", {"url": "a"})
    assert len(second.done) == len(first.done) - 2
    fewer, _ = _measure(profile, plan, second, max_num_batched_tokens=700)
    assert fewer.num_opened < bench.num_opened / 4
    assert second.done.keys() == first.done.keys()


def test_noise_is_told(profile, plan, tmp_path):
    """An engine whose iterations vary by 30% is called too noisy to trust, with numbers."""
    notebook = Notebook(tmp_path / "state", {})
    _measure(profile, plan, notebook, max_num_batched_tokens=700, noise_ratio=0.3, seed=3)
    noise = noise_of(notebook.done)
    assert noise.spread_p90_ratio > 0.1
    assert any("spread by" in warning for warning in noise.warnings)
    assert any(name.startswith(AGAIN) for name in notebook.done)


def test_what_blurs_now_and_then_is_measured_again(profile, plan, tmp_path, monkeypatch):
    """Every third task's tokens come in heaps at first: it is measured once more, and the profile is whole."""
    column, num_calls = Measurement._column, [0]

    async def blurred_at_times(measurement, context):
        num_calls[0] += 1
        found = await column(measurement, context)
        return found if num_calls[0] % 3 else middle([])

    monkeypatch.setattr(Measurement, "_column", blurred_at_times)
    notebook = Notebook(tmp_path / "state", {})
    _measure(profile, plan, notebook, max_num_batched_tokens=700)
    assert num_calls[0] > len([task for task in notebook.done if "context" in task])
    named = parse_profile(measured_content(notebook.done, FACTS), "mine", where="mine.json")
    assert _error(named.profile, profile, 700).mean() < 0.01
