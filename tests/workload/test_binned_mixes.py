"""Mixes whose requests ask for TPOTs of their own: lists, ranges, bins that are given or learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polyslo.errors import ConfigError
from polyslo.workload.model import load_model
from polyslo.workload.slo import AUTO, SloMix, lay, load_slo_mix
from polyslo.workload.trace import Trace

TRACE = load_model("sharegpt").sample(20_000, 100.0, seed=0)
RANGE = "tpot_ms = {from = 20, to = 60}"


def mix_of(folder: Path, tpot: str, binning: str = "") -> SloMix:
    """Load a mix with one class `chat` that has the line `tpot`."""
    path = folder / "fleet.toml"
    path.write_text(f"ttft_ms = 300\n[tiers.chat]\n{tpot}\nshare = 1\n{binning}")
    return load_slo_mix(path)


def instant(input_tokens: np.ndarray) -> np.ndarray:
    """Idle TTFT of an engine that needs no time."""
    return np.zeros(len(input_tokens))


def test_a_range_is_drawn_log_uniformly_and_binned(tmp_path: Path) -> None:
    """Requests keep their own TPOT; each is of the loosest tier not looser than it, in the shares foretold."""
    mix = mix_of(tmp_path, RANGE, "[binning]\ntiers_ms = [30, 20, 100]")
    assert mix.tpots_s == (0.02, 0.03, 0.1)
    workload = lay(TRACE, mix, 1, instant)
    assert workload.tpot_s.min() >= 0.02
    assert workload.tpot_s.max() < 0.06
    assert np.quantile(workload.tpot_s, 0.5) == pytest.approx(np.sqrt(0.02 * 0.06), rel=0.02)
    assert len(np.unique(workload.tpot_s)) == len(workload)
    tiers_s = np.asarray(workload.tpots_s)
    assert (tiers_s[workload.tier] <= workload.tpot_s).all()
    assert (workload.tpot_s < np.append(tiers_s, np.inf)[workload.tier + 1]).all()
    shares = np.bincount(workload.tier, minlength=3) / len(workload)
    assert mix.tier_shares == pytest.approx((np.log(1.5) / np.log(3), np.log(2) / np.log(3), 0.0))
    assert shares == pytest.approx(mix.tier_shares, abs=0.01)


def test_a_list_gives_each_tpot_the_same_chance(tmp_path: Path) -> None:
    """Values are asked for exactly; those below a tier's TPOT go to the tighter one."""
    mix = mix_of(tmp_path, "tpot_ms = [23, 27, 41, 88]", "[binning]\ntiers_ms = [23, 41]")
    workload = lay(TRACE, mix, 1, instant)
    values_s, counts = np.unique(workload.tpot_s, return_counts=True)
    assert values_s.tolist() == [0.023, 0.027, 0.041, 0.088]
    assert counts / len(workload) == pytest.approx([0.25] * 4, abs=0.01)
    assert workload.tier[workload.tpot_s < 0.03].max() == 0
    assert mix.tier_shares == pytest.approx((0.5, 0.5))


def test_what_is_learned_by_default(tmp_path: Path) -> None:
    """Single TPOTs are tiers; ranges and lists are learned, also when the mix asks for it, up to a number."""
    assert mix_of(tmp_path, "tpot_ms = 50").learn is None
    assert mix_of(tmp_path, RANGE).learn == AUTO
    assert mix_of(tmp_path, "tpot_ms = [30, 40]").learn == AUTO
    assert mix_of(tmp_path, "tpot_ms = 50", '[binning]\nlearn = "auto"').learn == AUTO
    assert mix_of(tmp_path, RANGE, "[binning]\nlearn = 4").learn == 4


def test_tiers_to_be_learned_must_be_learned(tmp_path: Path) -> None:
    """Using such a mix before says so."""
    with pytest.raises(ConfigError, match="SLO mix 'fleet': its tiers are to be learned; call with_tiers first"):
        lay(TRACE, mix_of(tmp_path, RANGE), 1, instant)


@pytest.mark.parametrize("middle", [False, True])
def test_points_stand_for_what_is_asked_for(tmp_path: Path, middle: bool) -> None:
    """Shares sum to 1 and the mean is near the log-uniform's; tiers may begin at every point."""
    mix = mix_of(tmp_path, RANGE)
    tpots_s, shares = mix.requested_tpots(middle=middle)
    assert shares.sum() == pytest.approx(1.0)
    assert (tpots_s.min() == 0.02) != middle
    assert shares @ tpots_s == pytest.approx(0.04 / np.log(3), rel=2e-4 if middle else 0.02)


def test_a_class_with_one_tpot_draws_as_before() -> None:
    """Mixes of single TPOTs have the tiers and TPOTs of before, exactly."""
    workload = lay(TRACE, load_slo_mix("default"), 1, instant)
    assert workload.tpots_s == (0.02, 0.03, 0.05, 0.1)
    assert (workload.tpot_s == np.asarray(workload.tpots_s)[workload.tier]).all()


def test_no_request_asks_for_less_than_its_class() -> None:
    """Whatever is drawn, the tightest end of the tightest class is safe as the tightest tier."""
    mix = load_slo_mix("continuous").with_tiers([0.02])
    trace = Trace.from_columns("t", [0.0, 1.0], [1, 1], [1, 1])
    for seed in range(50):
        assert (lay(trace, mix, seed, instant).tpot_s >= 0.02).all()


@pytest.mark.parametrize(
    ("tpot", "binning", "message"),
    [
        (
            "tpot_ms = [15, 40]",
            "[binning]\ntiers_ms = [20, 30]",
            "tier 'chat': asks for a TPOT of 15 ms, the tightest of binning.tiers_ms is 20; add one of 15 or less "
            "in fleet.toml",
        ),
        (
            "tpot_ms = {from = 20, too = 60}",
            "",
            "fleet.toml, tiers.chat.tpot_ms: unknown key 'too'; did you mean 'to'?",
        ),
        (
            "tpot_ms = {from = 20}",
            "",
            "tier 'chat': tpot_ms.to must be > 0, got nothing; set tiers.chat.tpot_ms.to in fleet.toml",
        ),
        (
            "tpot_ms = {from = 60, to = 60}",
            "",
            "tier 'chat': tpot_ms: from must be below to, got from = 60 and to = 60; set tiers.chat.tpot_ms "
            "in fleet.toml",
        ),
        (
            "tpot_ms = []",
            "",
            "tier 'chat': tpot_ms needs at least one value, got []; set tiers.chat.tpot_ms in fleet.toml",
        ),
        (
            "tpot_ms = [30, -1]",
            "",
            "tier 'chat': tpot_ms must be > 0, got -1; set tiers.chat.tpot_ms in fleet.toml",
        ),
        (RANGE, "[binning]\nlearnt = 3", "fleet.toml, [binning]: unknown key 'learnt'; did you mean 'learn'?"),
        (RANGE, '[binning]\nlearn = "uato"', "binning: learn got 'uato' in fleet.toml; did you mean 'auto'?"),
        (
            RANGE,
            "[binning]\nlearn = 0",
            'binning: learn must be a whole number >= 1 or "auto", got 0; set it in fleet.toml',
        ),
        (
            RANGE,
            "[binning]\nlearn = 2\ntiers_ms = [20]",
            "binning: needs tiers_ms or learn, one of them, got learn and tiers_ms; set it in fleet.toml, [binning]",
        ),
        (
            RANGE,
            "[binning]",
            "binning: needs tiers_ms or learn, one of them, got nothing; set it in fleet.toml, [binning]",
        ),
        (
            RANGE,
            "[binning]\ntiers_ms = [0]",
            "binning: tiers_ms must be > 0, got 0; set binning.tiers_ms in fleet.toml",
        ),
    ],
)
def test_wrong_bins_say_what_to_set(tpot: str, binning: str, message: str, tmp_path: Path) -> None:
    """Every wrong value names the class, the value found and the key to set."""
    with pytest.raises(ConfigError) as caught:
        mix_of(tmp_path, tpot, binning)
    assert str(caught.value) == message
