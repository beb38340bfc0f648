import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyslo.errors import InputError
from polyslo.workload.lengths import spearman
from polyslo.workload.model import WorkloadModel, load_model, shipped_models
from polyslo.workload.readers import read_trace
from polyslo.workload.trace import Trace

# model -> trace file
SOURCES = {
    "azure2023-conv": "azure2023_conv",
    "azure2023-code": "azure2023_code",
    "mooncake-conversation": "mooncake_conversation",
    "servegen-mlarge": "servegen_mlarge_1h",
    "sharegpt": "lengths_sharegpt_8k",
    "arxiv-summarization": "lengths_arxiv_summ",
}


def cv(trace: Trace) -> float:
    """Coefficient of variation of the gaps."""
    gaps = np.diff(trace.arrival_s)
    return float(gaps.std() / gaps.mean())


def test_what_ships() -> None:
    """Every model that the documentation names is there, loads, and says where it comes from."""
    published = {"mooncake-toolagent", "burstgpt", "uniform-512-512", "uniform-4096-1024"}
    assert set(shipped_models()) == {*SOURCES, *published}
    for name in shipped_models():
        model = load_model(name)
        assert model.name == name
        assert model.source
        assert model.licence
        assert model.conditions
        assert (model.num_requests > 0) == (name in SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_samples_are_like_their_source(name: str, shared_traces: Path) -> None:
    """A sample's length means, medians, P99s, rank correlation and gap CV are those of the real trace."""
    source = read_trace(shared_traces / f"{SOURCES[name]}.parquet")
    model = load_model(name)
    sample = model.sample(60_000, 10.0, seed=5)
    for field in ("input_tokens", "output_tokens"):
        real, drawn = getattr(source, field), getattr(sample, field)
        assert drawn.mean() == pytest.approx(real.mean(), rel=0.03)
        for rank in (0.1, 0.5, 0.9, 0.99):
            assert np.quantile(drawn, rank) == pytest.approx(np.quantile(real, rank), rel=0.1, abs=2)
    rho = spearman(source.input_tokens, source.output_tokens)
    assert spearman(sample.input_tokens, sample.output_tokens) == pytest.approx(rho, abs=0.03)
    if source.has_arrivals:
        real_cv = cv(source.jittered(3.0, 0) if name == "mooncake-conversation" else source)
        assert cv(sample) == pytest.approx(real_cv, rel=0.1)
        assert model.rate_rps == pytest.approx(source.rate_rps, rel=0.01)


def test_outputs_follow_prompts_as_in_the_azure_conversations(shared_traces: Path) -> None:
    """The mean output of every tenth of prompts, which no correlation would give, is within 15%."""
    source = read_trace(shared_traces / "azure2023_conv.parquet")
    sample = load_model("azure2023-conv").sample(100_000, 10.0, seed=5)
    edges = np.quantile(source.input_tokens, np.linspace(0, 1, 11))
    for low, high in pairwise(edges):
        means = [t.output_tokens[(t.input_tokens >= low) & (t.input_tokens <= high)].mean() for t in (source, sample)]
        assert means[1] == pytest.approx(means[0], rel=0.15)


def test_code_completion_stays_on_off(shared_traces: Path) -> None:
    """The share of seconds with arrivals in the Azure code trace, 27%, is kept within 3 points."""
    source = read_trace(shared_traces / "azure2023_code.parquet")
    sample = load_model("azure2023-code").sample(len(source), source.rate_rps, seed=5)
    active = [np.mean(np.bincount(t.arrival_s.astype(int)) > 0) for t in (source, sample)]
    assert active[1] == pytest.approx(active[0], abs=0.03)


def test_published_statistics_are_met() -> None:
    """The models made from published statistics have those statistics."""
    agent = load_model("mooncake-toolagent").sample(100_000, None, seed=1)
    assert agent.rate_rps == pytest.approx(23_608 / 3600, rel=0.02)
    assert agent.input_tokens.mean() == pytest.approx(8596, rel=0.02)
    assert agent.output_tokens.mean() == pytest.approx(182, rel=0.02)
    assert np.quantile(agent.output_tokens, [0.5, 0.99]) == pytest.approx([30, 890], rel=0.06)
    burst = load_model("burstgpt").sample(100_000, 10.0, seed=1)
    assert burst.input_tokens.mean() == pytest.approx(374, rel=0.02)
    assert np.quantile(burst.input_tokens, [0.5, 0.9, 0.99]) == pytest.approx([74, 1291, 3023], rel=0.05)
    assert burst.output_tokens.mean() == pytest.approx(122, rel=0.02)
    assert np.quantile(burst.output_tokens, [0.5, 0.9, 0.99]) == pytest.approx([14, 401, 757], rel=0.05)


def test_uniform_models_cover_one_to_twice_the_mean() -> None:
    """`uniform-512-512` draws 1..1023 and has mean 512."""
    model = load_model("uniform-512-512")
    trace = model.sample(200_000, 10.0, seed=1)
    assert (model.mean_input_tokens, model.mean_output_tokens) == (512.0, 512.0)
    assert (trace.input_tokens.min(), trace.input_tokens.max()) == (1, 1023)
    assert (trace.output_tokens.min(), trace.output_tokens.max()) == (1, 1023)


@settings(max_examples=40)
@given(st.sampled_from(shipped_models()), st.integers(1, 500), st.integers(0, 2**40))
def test_a_seed_names_one_trace(name: str, num_requests: int, seed: int) -> None:
    """The same seed gives the same trace; another rate gives the same requests on a stretched clock."""
    model = load_model(name)
    one, again = (model.sample(num_requests, 7.0, seed) for _ in range(2))
    slow = model.sample(num_requests, 3.5, seed)
    assert len(one) == num_requests
    assert (one.arrival_s == again.arrival_s).all()
    assert (one.output_tokens == again.output_tokens).all()
    assert (one.input_tokens == slow.input_tokens).all()
    assert slow.arrival_s == pytest.approx(2 * one.arrival_s)
    assert one.input_tokens.min() >= 1
    assert one.output_tokens.min() >= 1


def test_processes() -> None:
    """`poisson` and `gamma:CV` replace the source's own arrivals; the lengths stay."""
    model = load_model("azure2023-code")
    traces = {spec: model.sample(20_000, 10.0, 1, spec) for spec in ("fitted", "poisson", "gamma:3")}
    assert cv(traces["fitted"]) == pytest.approx(13, rel=0.1)
    assert cv(traces["poisson"]) == pytest.approx(1, rel=0.05)
    assert cv(traces["gamma:3"]) == pytest.approx(3, rel=0.1)
    assert (traces["fitted"].input_tokens == traces["gamma:3"].input_tokens).all()
    assert not traces["fitted"].notices


def test_lengths_only_models_say_that_they_draw_poisson() -> None:
    """A model without arrivals draws Poisson and leaves a notice."""
    trace = load_model("sharegpt").sample(10, 1.0, seed=0)
    assert trace.notices == ("workload 'sharegpt' has no arrivals of its own: Poisson arrivals drawn",)
    assert not load_model("sharegpt").sample(10, 1.0, 0, "poisson").notices


@pytest.mark.parametrize("name", ["azure2023-code", "sharegpt", "uniform-512-512"])
def test_a_saved_model_loads_equal(name: str, tmp_path: Path) -> None:
    """Writing and reading a model changes nothing."""
    model = load_model(name)
    model.save(tmp_path / "m.json")
    assert WorkloadModel.load(tmp_path / "m.json") == model
    assert (tmp_path / "m.json").stat().st_size < 8000


def test_a_fitted_model_survives_its_file(tmp_path: Path) -> None:
    """A fit of any trace can be saved and loaded: rounding does not break it."""
    rng = np.random.default_rng(0)
    trace = Trace.from_columns("t", np.sort(rng.random(500)), rng.integers(1, 99, 500), np.ones(500))
    model = WorkloadModel.fit(trace, source="made up")
    model.save(tmp_path / "t.json")
    assert WorkloadModel.load(tmp_path / "t.json") == model
    assert model.sample(10, None, 0).rate_rps == pytest.approx(trace.rate_rps, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not a workload model; its 'format' must be 'polyslo-workload-1'"),
        ({"tokens": 1}, "unknown key 'tokens'; did you mean 'input_tokens'?"),
        ({"input_tokens": [1, 2]}, "m.json: quantiles: need as many tokens as probabilities"),
        ({"rank_correlations": [2.0] * 16}, "m.json: lengths: rank correlations must be above -1"),
        ({"num_requests": "many"}, "m.json: invalid literal"),
    ],
)
def test_broken_model_files_are_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    """A model file with a wrong key or value names the file and the key."""
    path = tmp_path / "m.json"
    load_model("sharegpt").save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError) as caught:
        WorkloadModel.load(path)
    assert message in str(caught.value)


def test_missing_keys_and_files_are_named(tmp_path: Path) -> None:
    """A missing key, text that is not JSON, and an absent file each say so."""
    path = tmp_path / "m.json"
    path.write_text('{"format": "polyslo-workload-1"}')
    with pytest.raises(InputError, match=r"m\.json: missing key 'output_probabilities'"):
        WorkloadModel.load(path)
    path.write_text("{\n oops")
    with pytest.raises(InputError, match=r"m\.json, line 2: not JSON"):
        WorkloadModel.load(path)
    with pytest.raises(InputError, match="can't read it: No such file"):
        WorkloadModel.load(tmp_path / "absent.json")


def test_wrong_arguments_are_refused() -> None:
    """Unknown names, processes, counts and rates say what is allowed."""
    model = load_model("sharegpt")
    with pytest.raises(InputError, match="unknown workload 'sharegtp'; did you mean 'sharegpt'"):
        load_model("sharegtp")
    with pytest.raises(InputError, match="unknown process 'poison'; did you mean 'poisson'"):
        model.sample(10, 1.0, 0, "poison")
    with pytest.raises(InputError, match=r"the CV of gaps must be a number .* got 'gamma:x'"):
        model.sample(10, 1.0, 0, "gamma:x")
    with pytest.raises(InputError, match="num_requests must be >= 1, got 0"):
        model.sample(0, 1.0, 0)
    with pytest.raises(InputError, match="rate_rps must be > 0 and finite, got -1"):
        load_model("azure2023-conv").sample(10, -1.0, 0)
    with pytest.raises(InputError, match="its source has no rate; give rate_rps"):
        replace(model, rate_rps=None).sample(10, None, 0)
