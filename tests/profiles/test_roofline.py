"""Roofline estimates: physics, memory, agreement with what was measured, and errors that say what to do."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from polyslo.cli.main import cli
from polyslo.core.measured import residuals
from polyslo.errors import ProfileError
from polyslo.profiles.gpus import GPUS
from polyslo.profiles.library import estimate, load_profile, profile_text, shipped_profiles
from polyslo.profiles.roofline import FITTED, Roofline
from polyslo.profiles.shapes import MODELS, parse_config
from polyslo.sim.compare import compare
from polyslo.sim.setting import Setting

# Those that the factors were fitted to. What was measured in FP8 keeps its KV in FP8 too, which no estimate does.
FITTED_TO = [name for name in shipped_profiles() if load_profile(name).facts["dtype"] == "bfloat16"]
SHIPPED_GPUS = {"a100_sxm": "a100-80gb", "h100_sxm": "h100", "h200_sxm": "h200"}
ESTIMATES = ("roofline:llama-3.1-8b:l40s", "roofline:qwen3-32b:h100:tp4:fp8", "roofline:mixtral-8x7b:mi300x")
# Parameters in billions as their publishers state them.
PUBLISHED_PARAMS = {
    "llama-3.1-8b": 8.03, "llama-3.1-70b": 70.6, "llama-3.1-405b": 406, "llama-3.2-1b": 1.24, "llama-3.2-3b": 3.21,
    "qwen3-8b": 8.2, "qwen3-32b": 32.8, "mistral-7b": 7.25, "mixtral-8x7b": 46.7, "qwen3-30b-a3b": 30.5,
    "qwen3-235b-a22b": 235,
}  # fmt: skip
CONFIG = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14336, "vocab_size": 128256,
}  # fmt: skip
examples = settings(max_examples=200, deadline=None, derandomize=True)


@cache
def _profile(name):
    return load_profile(name).profile


def _roofline_of(named):
    model = named.facts["model"].split("/")[1].lower().removeprefix("meta-")
    return Roofline.of(model, SHIPPED_GPUS[named.facts["system"]], tensor_parallel=named.facts["tensor_parallel"])


def _refused(call, *parts):
    with pytest.raises(ProfileError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


@examples
@given(
    n=st.integers(0, 1024),
    c=st.integers(0, 16_384),
    kv=st.integers(0, 900_000),
    context=st.integers(0, 60_000),
    more=st.integers(1, 2000),
)
@pytest.mark.parametrize("name", ESTIMATES)
def test_an_estimate_never_gets_shorter_with_more_work(name, n, c, kv, context, more):
    """I13: an estimated iteration rises, weakly, with decodes, chunk, KV tokens and prefill context."""
    profile = _profile(name)
    base_s = profile.iteration_s(n, c, kv, context)
    for larger in ((n + more, c, kv, context), (n, c + more, kv, context),
                   (n, c, kv + more, context), (n, c, kv, context + more)):  # fmt: skip
        assert profile.iteration_s(*larger) >= base_s * (1 - 1e-4), larger


@examples
@given(time_s=st.floats(0.02, 0.5), n=st.integers(0, 256), context=st.integers(1, 8000))
@pytest.mark.parametrize("name", ESTIMATES)
def test_the_inverses_of_an_estimate_are_its_largest_chunk_and_batch(name, time_s, n, context):
    """I13: the largest chunk and the largest batch fit the time, and one more does not."""
    profile = _profile(name)
    kv = n * context

    def takes_s(c):
        return profile.iteration_s(n, c, kv, context + c / 2)

    c = profile.largest_chunk(time_s, n, kv, context, 8192)
    assert c == 0 or takes_s(c) <= time_s + 1e-9
    assert c == 8192 or takes_s(c + 1) >= time_s - 1e-9
    batch = profile.largest_batch(time_s, context)
    assert batch == 0 or profile.iteration_s(batch, 0, batch * context, 0.0) <= time_s
    assert batch == 4096 or profile.iteration_s(batch + 1, 0, (batch + 1) * context, 0.0) > time_s


@pytest.mark.parametrize("name", ESTIMATES)
def test_the_tables_give_back_the_formula(name):
    """Between the grid's points too, a profile is within 4% of the formula that it was made from."""
    roofline, profile = Roofline.parse(name), _profile(name)
    for n, c, context in ((5, 0, 700), (100, 0, 3000), (600, 0, 1500), (0, 90, 0), (0, 640, 3000), (0, 5000, 0)):
        pairs = c * (context + c / 2)
        formula_s = float(roofline.batch_s(n, c, n * context, pairs))
        assert profile.iteration_s(n, c, n * context, context + c / 2) == pytest.approx(formula_s, rel=0.04)


@pytest.mark.parametrize(("kind", "limit"), [("decode", 0.12), ("prefill", 0.08), ("mixed", 0.12)])
@pytest.mark.parametrize("name", FITTED_TO)
def test_an_estimate_agrees_with_what_was_measured(name, kind, limit):
    """Mean absolute error on each shipped profile stays within what docs/profiles.md states (nothing held out)."""
    named = load_profile(name)
    errors = residuals(estimate(_roofline_of(named)).profile, named.points)[kind]
    assert np.abs(errors).mean() <= limit


@pytest.mark.parametrize("name", FITTED_TO)
def test_kv_memory_agrees_with_the_shipped_profiles(name):
    """KV capacity is within 2%, KV bytes a token the same."""
    named = load_profile(name)
    roofline = _roofline_of(named)
    assert roofline.kv_capacity_tokens == pytest.approx(named.profile.kv_capacity_tokens, rel=0.02)
    assert roofline.kv_bytes_per_token == named.profile.physics["kv_bytes_per_token"][0]


@pytest.mark.parametrize("name", MODELS)
def test_a_shape_has_the_published_number_of_parameters(name):
    """Within 1% of what the publisher states, every expert counted."""
    assert MODELS[name].total_params / 1e9 == pytest.approx(PUBLISHED_PARAMS[name], rel=0.01)


def test_a_gpu_with_faster_memory_is_faster_everywhere():
    """H200 differs from H100 in memory only: decode gains, and nothing loses."""
    h100, h200 = (_profile(f"roofline:llama-3.1-8b:{gpu}") for gpu in ("h100", "h200"))
    assert h200.iteration_s(64, 0, 64_000, 0.0) < 0.8 * h100.iteration_s(64, 0, 64_000, 0.0)
    assert h200.iteration_s(0, 2048, 0, 1024.0) <= h100.iteration_s(0, 2048, 0, 1024.0)


def test_fp8_halves_the_layers_and_nothing_else():
    """FP8 weights take half the memory but for embeddings and head; KV stays as it is."""
    bf16, fp8 = (Roofline.of("llama-3.1-8b", "h100", dtype=dtype) for dtype in ("bf16", "fp8"))
    assert bf16.weight_bytes - fp8.weight_bytes == MODELS["llama-3.1-8b"].layer_params
    assert bf16.kv_bytes_per_token == fp8.kv_bytes_per_token


def test_a_mixture_reads_more_experts_as_its_batch_grows():
    """One token touches its 8 experts of 128, many tokens all."""
    touched = MODELS["qwen3-30b-a3b"].experts_touched([1, 16, 4096])
    assert touched[0] == pytest.approx(8)
    assert 8 < touched[1] < 128
    assert touched[2] == pytest.approx(128)


def test_more_gpus_than_kv_heads_hold_each_head_twice():
    """Four KV heads on eight GPUs: twice the KV bytes a token."""
    four, eight = (Roofline.of("qwen3-30b-a3b", "h100", tensor_parallel=size) for size in (4, 8))
    assert eight.kv_bytes_per_token == 2 * four.kv_bytes_per_token


def test_an_unknown_model_or_gpu_suggests_the_nearest():
    """I14: `llama-3.1-8` suggests `llama-3.1-8b`, `h20` a GPU of nearly that name."""
    _refused(lambda: load_profile("roofline:llama-3.1-8:h100"), "llama-3.1-8b")
    _refused(lambda: load_profile("roofline:llama-3.1-8b:l40"), "'l40s'")


@pytest.mark.parametrize("text", ["roofline:", "roofline:llama-3.1-8b", "roofline::h100", "roofline:qwen3-8b:h100:8",
                                  "roofline:qwen3-8b:h100:int4", "roofline:qwen3-8b:h100:tp"])  # fmt: skip
def test_a_wrong_spelling_is_refused_with_the_right_one(text):
    """I14: missing parts and unknown options name the syntax."""
    _refused(lambda: load_profile(text), text, "roofline:MODEL:GPU[:tpN]")


def test_a_model_that_does_not_fit_names_the_size_that_does():
    """I14: 70B in BF16 needs 147 GB and a GPU offers 72: four GPUs; 405B on eight A100 fits nowhere."""
    _refused(lambda: load_profile("roofline:llama-3.1-70b:h100"), "146.8 GB needed", "72.0 GB available", "size 4")
    _refused(lambda: load_profile("roofline:llama-3.1-405b:a100-80gb"), "no size up to 8 fits: use a larger GPU")
    assert load_profile("roofline:llama-3.1-70b:h100:tp4").profile.kv_capacity_tokens > 0


@pytest.mark.parametrize("size", [0, 3, 16])
def test_heads_that_can_not_be_split_are_refused(size):
    """I14: the sizes that divide the heads are named."""
    _refused(lambda: load_profile(f"roofline:llama-3.1-8b:h100:tp{size}"), "allowed tensor-parallel sizes: 1, 2, 4, 8")


def test_fp8_needs_a_gpu_that_has_it():
    """I14: A100 has no FP8 units."""
    _refused(lambda: load_profile("roofline:llama-3.1-8b:a100-80gb:fp8"), "no FP8", "use bf16")


def test_a_configuration_file_gives_the_same_as_the_known_model(tmp_path):
    """A config.json with Llama's sizes gives Llama's times; the name is that of its folder."""
    path = tmp_path / "my-llama" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(CONFIG))
    mine = load_profile(f"roofline:{path}:h200")
    assert mine.name == "my-llama-h200-tp1-bf16-roofline"
    assert mine.profile.iteration_s(8, 512, 8000, 256.0) == _profile("roofline:llama-3.1-8b:h200").iteration_s(
        8, 512, 8000, 256.0
    )


def test_a_configuration_of_a_mixture_is_read():
    """Both spellings of the number of experts, and the size of one."""
    qwen = CONFIG | {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}
    mixtral = CONFIG | {"num_local_experts": 8, "num_experts_per_tok": 2}
    assert parse_config(qwen, "c").intermediate_size == 768
    assert (parse_config(mixtral, "c").num_experts, parse_config(mixtral, "c").intermediate_size) == (8, 14336)
    _refused(lambda: parse_config(CONFIG | {"num_experts": 8}, "c"), "num_experts_per_tok is missing")


def test_published_fp8_weights_are_the_default_format():
    """A config.json whose weights are FP8 is estimated in FP8 unless told otherwise."""
    assert parse_config(CONFIG | {"quantization_config": {"quant_method": "fp8"}}, "c").dtype == "fp8"
    assert parse_config(CONFIG, "c").dtype == "bf16"


@pytest.mark.parametrize("key", [key for key in CONFIG if key != "num_key_value_heads"])
@pytest.mark.parametrize("bad", [None, 0, -1, 1.5, "8", True])
def test_a_configuration_with_a_hole_is_refused(key, bad):
    """I14: a size that is missing or no whole number is named."""
    _refused(lambda: parse_config(CONFIG | {key: bad}, "mine/config.json"), "mine/config.json", key)


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"kv_lora_rank": 512}, "latent attention"),
        ({"sliding_window": 4096}, "sliding_window 4096"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"mlp_only_layers": [0]}, "experts in some layers"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "mxfp4"),
    ],
)
def test_what_the_formula_gets_wrong_is_refused(wrong, part):
    """I14: latent attention, windows, uneven layers and other weight formats are no silent error."""
    _refused(lambda: parse_config(CONFIG | wrong, "c"), part)


def test_a_switched_off_window_is_fine():
    """Qwen's configurations carry a window that is not used."""
    parse_config(CONFIG | {"sliding_window": 4096, "use_sliding_window": False}, "c")


def test_a_written_estimate_loads_and_still_says_what_it_is(tmp_path):
    """The file gives the same times, and is known as an estimate with its error."""
    path = tmp_path / "mine.json"
    path.write_text(profile_text(Roofline.of("qwen3-8b", "l40s").content()))
    named = load_profile(path)
    assert named.is_estimate
    assert "nobody measured it" in named.facts["source"]
    assert named.profile.iteration_s(8, 64, 9000, 9.0) == _profile("roofline:qwen3-8b:l40s").iteration_s(8, 64, 9000, 9)
    assert not load_profile(shipped_profiles()[0]).is_estimate


def test_every_gpu_is_estimated_for_a_small_model():
    """All data of the GPU table is usable, and slower memory means slower decodes."""
    decode_s = {gpu: float(Roofline.of("llama-3.2-1b", gpu).batch_s(32, 0, 32_000, 0)) for gpu in GPUS}
    by_memory = sorted(GPUS, key=lambda gpu: -GPUS[gpu].memory_bytes_per_s)
    assert sorted(decode_s, key=decode_s.__getitem__) == by_memory


def test_factors_are_shares():
    """Efficiencies lie in (0, 1), and with lower ones everything takes longer."""
    shares = (FITTED.matrix_flops, FITTED.weight_bandwidth, FITTED.kv_bandwidth, FITTED.attention_flops,
              FITTED.link_bandwidth)  # fmt: skip
    assert all(0 < share < 1 for share in shares)
    roofline = Roofline.of("llama-3.1-8b", "h100")
    slower = replace(roofline, factors=replace(FITTED, matrix_flops=0.4, weight_bandwidth=0.4))
    assert slower.batch_s(8, 512, 8000, 1e5) > roofline.batch_s(8, 512, 8000, 1e5)


def test_the_command_prints_and_writes(tmp_path):
    """`profile roofline` prints facts and budgets, `show` the same; `plot` takes the name."""
    run = CliRunner().invoke
    path, figure = tmp_path / "mine.json", tmp_path / "mine.svg"
    made = run(cli, ["profile", "roofline", "qwen3-8b", "L40S", "--output", str(path)], catch_exceptions=False)
    assert made.exit_code == 0
    assert "nobody measured it" in made.output
    assert "What fits" in made.output
    assert "Tables against" not in made.output
    shown = run(cli, ["profile", "show", "roofline:qwen3-8b:l40s"], catch_exceptions=False)
    assert shown.output in made.output or made.output.startswith(shown.output)
    plotted = run(cli, ["profile", "plot", "roofline:qwen3-8b:l40s", "--output", str(figure)], catch_exceptions=False)
    assert plotted.exit_code == 0
    assert figure.read_text().startswith("<?xml")


def test_a_comparison_runs_on_an_estimate():
    """`Setting.of` takes the name, and policies can be compared on it."""
    setting = Setting.of(profile="roofline:llama-3.1-8b:b200", instances=2, slo="single")
    assert setting.named.name == "llama-3.1-8b-b200-tp1-bf16-roofline"
    result = compare(setting, rates_rps=[0.5 * setting.optimum_rps()], policies=["minimal"], seeds=1, duration_s=5.0)
    assert result.profile == setting.named.name
    assert len(result.runs) == 1
