from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyslo.errors import ConfigError, TraceError
from polyslo.workload.mixes import MIXES
from polyslo.workload.model import load_model
from polyslo.workload.slo import SloMix, lay, load_slo_mix
from polyslo.workload.trace import Trace

TRACE = load_model("sharegpt").sample(20_000, 100.0, seed=0)


def instant(input_tokens: np.ndarray) -> np.ndarray:
    """Idle TTFT of an engine that needs no time."""
    return np.zeros(len(input_tokens))


def linear(input_tokens: np.ndarray) -> np.ndarray:
    """Idle TTFT of 0.2 ms a token."""
    return input_tokens * 2e-4


def write(folder: Path, text: str) -> Path:
    """Write a mix file."""
    path = folder / "fleet.toml"
    path.write_text(text)
    return path


def test_default_mix_is_the_papers() -> None:
    """TPOT 20/30/50/100 ms in shares 10/20/30/40%, TTFT uniform over 300/500/1000 ms."""
    mix = load_slo_mix("default")
    assert mix.tpots_s == (0.02, 0.03, 0.05, 0.1)
    assert mix.tier_shares == pytest.approx((0.1, 0.2, 0.3, 0.4))
    workload = lay(TRACE, mix, 1, instant)
    assert np.bincount(workload.tier) / len(workload) == pytest.approx(mix.tier_shares, abs=0.01)
    values, counts = np.unique(workload.ttft_s, return_counts=True)
    assert values == pytest.approx([0.3, 0.5, 1.0])
    assert counts / len(workload) == pytest.approx([1 / 3] * 3, abs=0.01)


def binned(name: str) -> SloMix:
    """Load a named mix; where its tiers are to be learned, take three."""
    mix = load_slo_mix(name)
    return mix if mix.learn is None else mix.with_tiers([0.02, 0.03, 0.04])


@pytest.mark.parametrize("name", MIXES)
def test_named_mixes_load(name: str) -> None:
    """Every named mix has a source, and tiers whose shares sum to 1."""
    mix = binned(name)
    assert mix.name == name
    assert mix.source
    assert sum(mix.tier_shares) == pytest.approx(1.0)


def test_classes_of_one_tpot_are_one_tier() -> None:
    """The catalog's three classes at 100 ms share a tier but keep their own TTFTs."""
    mix = load_slo_mix("catalog")
    assert mix.tpots_s == (0.05, 0.1, 0.15)
    workload = lay(TRACE, mix, 1, instant)
    assert set(workload.ttft_s[workload.tier == 1].tolist()) == {2.0, 10.0, 30.0}
    assert set(workload.ttft_s[workload.tier == 0].tolist()) == {1.0}


def test_ttft_out_of_reach_is_raised_to_twice_idle_and_counted() -> None:
    """No request is promised a first token that an idle instance could not give."""
    workload = lay(TRACE, load_slo_mix("default"), 1, linear)
    untouched = lay(TRACE, load_slo_mix("default"), 1, instant)
    idle_s = linear(TRACE.input_tokens)
    raised = untouched.ttft_s < idle_s
    assert 0 < workload.num_ttft_raised == raised.sum() < len(TRACE)
    assert workload.ttft_s[raised] == pytest.approx(2 * idle_s[raised])
    assert (workload.ttft_s[~raised] == untouched.ttft_s[~raised]).all()
    assert (workload.ttft_s >= idle_s).all()
    assert (workload.tpot_s == np.asarray(workload.tpots_s)[workload.tier]).all()


@given(st.integers(0, 2**40), st.sampled_from(sorted(MIXES)), st.floats(0.1, 1000))
def test_slos_depend_on_the_seed_alone(seed: int, name: str, rate_rps: float) -> None:
    """The same seed promises the same, at any rate; the trace itself is not changed."""
    trace = TRACE.head(200)
    one = lay(trace, binned(name), seed, linear)
    other = lay(trace.at_rate(rate_rps), binned(name), seed, linear)
    assert (one.ttft_s == other.ttft_s).all()
    assert (one.tpot_s == other.tpot_s).all()
    assert (one.tier == other.tier).all()
    assert (one.arrival_s == trace.arrival_s).all()
    assert other.rate_rps == pytest.approx(rate_rps)


def test_slos_are_independent_of_lengths() -> None:
    """Every tier gets the same lengths, also when the trace was drawn from the same seed."""
    workload = lay(TRACE, load_slo_mix("default"), 0, instant)
    for tier in range(4):
        assert workload.input_tokens[workload.tier == tier].mean() == pytest.approx(TRACE.input_tokens.mean(), rel=0.05)


def test_a_mix_from_a_file(tmp_path: Path) -> None:
    """A TOML file gives tiers in any order, with their own TTFTs where they say so."""
    path = write(
        tmp_path,
        """
        ttft_ms = 500
        [tiers.report]
        tpot_ms = 100
        share = 0.25
        ttft_ms = [2000, 5000]
        ttft_shares = [0.8, 0.2]
        [tiers.chat]
        tpot_ms = 40.5
        share = 0.75
        """,
    )
    mix = load_slo_mix(path)
    assert mix.name == "fleet"
    assert mix.tpots_s == (0.0405, 0.1)
    assert [entry.name for entry in mix.classes] == ["report", "chat"]
    workload = lay(TRACE, mix, 1, instant)
    report = workload.ttft_s[workload.tier == 1]
    assert np.mean(report == 2.0) == pytest.approx(0.8, abs=0.03)
    assert set(workload.ttft_s[workload.tier == 0].tolist()) == {0.5}


CHAT = "[tiers.chat]\ntpot_ms = 50\nshare = 1.0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "ttft_ms = 300\n[tiers.chat]\ntpot_ms = -20\nshare = 1",
            "tier 'chat': tpot_ms must be > 0, got -20; set tiers.chat.tpot_ms in fleet.toml",
        ),
        (
            "ttft_ms = 300\n[tiers.chat]\nshare = 1",
            "tier 'chat': tpot_ms must be > 0, got nothing; set tiers.chat.tpot_ms in fleet.toml",
        ),
        (
            "ttft_ms = 300\n[tiers.chat]\ntpot_ms = true\nshare = 1",
            "tier 'chat': tpot_ms must be > 0, got True; set tiers.chat.tpot_ms in fleet.toml",
        ),
        (
            "ttft_ms = [300, 0]\n" + CHAT,
            "mix: ttft_ms must be > 0, got 0; set ttft_ms in fleet.toml",
        ),
        (
            "ttft_ms = [300, 500]\nttft_shares = [1]\n" + CHAT,
            "mix: ttft_ms needs at least one value and one share for each, got 2 values and "
            "ttft_shares = [1]; set ttft_ms and ttft_shares in fleet.toml",
        ),
        (
            "ttft_ms = [300, 500]\nttft_shares = [0.5, 0.6]\n" + CHAT,
            "mix: ttft_shares: shares must sum to 1, got 1.1; set ttft_shares in fleet.toml",
        ),
        (
            "ttft_ms = 300\n" + CHAT.replace("1.0", "0.9"),
            "tiers: shares must sum to 1, got 0.9; set tiers.NAME.share in fleet.toml",
        ),
        (CHAT, "tier 'chat': has no ttft_ms and neither has the mix; set tiers.chat.ttft_ms in fleet.toml"),
        ("ttft_ms = 300", "fleet.toml: a mix needs at least one tier; add a table [tiers.NAME]"),
        (
            "ttft_ms = 300\ntiers.chat = 3",
            "tier 'chat': must be a table, got 3; write [tiers.chat] in fleet.toml",
        ),
        ("tftt_ms = 300\n" + CHAT, "fleet.toml: unknown key 'tftt_ms'; did you mean 'ttft_ms'?"),
        (
            "ttft_ms = 300\n" + CHAT + "shares = 1",
            "fleet.toml, [tiers.chat]: unknown key 'shares'; did you mean 'share'?",
        ),
    ],
)
def test_wrong_mixes_say_what_to_set(text: str, message: str, tmp_path: Path) -> None:
    """Every wrong value names the tier, the value found and the key to set."""
    with pytest.raises(ConfigError) as caught:
        load_slo_mix(write(tmp_path, text))
    assert str(caught.value) == message


def test_unknown_and_unreadable_mixes(tmp_path: Path) -> None:
    """A misspelt name gets the nearest; an absent file and bad TOML say so."""
    with pytest.raises(ConfigError, match="unknown SLO mix 'defualt'; did you mean 'default'"):
        load_slo_mix("defualt")
    with pytest.raises(ConfigError, match="can't read it: No such file"):
        load_slo_mix(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="not TOML: "):
        load_slo_mix(write(tmp_path, "tiers = ["))


def test_rounding_of_shares_is_forgiven(tmp_path: Path) -> None:
    """Shares that sum to 1 within 1e-6 are normalised."""
    text = "ttft_ms = 1\n" + "".join(f"[tiers.t{i}]\ntpot_ms = {i}\nshare = 0.3333333\n" for i in (1, 2, 3))
    mix: SloMix = load_slo_mix(write(tmp_path, text))
    assert sum(entry.share for entry in mix.classes) == pytest.approx(1.0, abs=1e-15)


def test_lengths_alone_can_not_be_promised_anything() -> None:
    """A trace without arrivals has no deadlines."""
    with pytest.raises(TraceError, match="has no arrivals; draw some and use with_arrivals"):
        lay(Trace.from_columns("t", None, [1], [1]), load_slo_mix("default"), 0, instant)
