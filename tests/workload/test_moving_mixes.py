"""SLO mixes whose shares move while the trace runs."""

from __future__ import annotations

import numpy as np
import pytest

from polyslo.errors import ConfigError
from polyslo.workload.slo import lay, load_slo_mix
from polyslo.workload.trace import Trace

COUNT = 40_000


def laid(name_or_path):
    """Lay a mix over a long trace of small prompts."""
    trace = Trace(
        name="t",
        arrival_s=np.arange(COUNT) / 100.0,
        input_tokens=np.full(COUNT, 100, np.int32),
        output_tokens=np.full(COUNT, 10, np.int32),
    )
    return lay(trace, load_slo_mix(name_or_path), 0, lambda tokens: np.full(len(tokens), 0.01))


def shares(workload, part):
    """Return the tiers' shares in a part of the requests."""
    return np.bincount(workload.tier[part], minlength=4) / len(workload.tier[part])


def test_a_drifting_mix_goes_from_one_to_the_other():
    """At its begin a mix has the first shares, in the middle the mean, at its end the later ones."""
    workload = laid("drifting")
    assert shares(workload, slice(0, 4000)) == pytest.approx([0.115, 0.205, 0.295, 0.385], abs=0.03)
    assert shares(workload, slice(18_000, 22_000)) == pytest.approx([0.25] * 4, abs=0.03)
    assert shares(workload, slice(36_000, COUNT)) == pytest.approx([0.385, 0.295, 0.205, 0.115], abs=0.03)


def test_a_flipping_mix_changes_in_the_middle():
    """The two halves have the two mixes."""
    workload = laid("flipping")
    assert shares(workload, slice(0, 20_000)) == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.015)
    assert shares(workload, slice(20_000, COUNT)) == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.015)


def test_the_end_of_a_moving_mix_is_a_mix():
    """`at_end` gives the mix that it moves to; one that does not move is its own end."""
    moving, still = load_slo_mix("drifting"), load_slo_mix("default")
    assert moving.at_end().tier_shares == pytest.approx((0.4, 0.3, 0.2, 0.1))
    assert moving.at_end().drift is None
    assert still.at_end() == still


MIX = """
ttft_ms = [500]
{drift}
[tiers.a]
tpot_ms = 20
share = 0.5
{a}
[tiers.b]
tpot_ms = 50
share = 0.5
{b}
"""


@pytest.mark.parametrize(
    ("drift", "a", "b", "said"),
    [
        ('drift = "liner"', "share_later = 1", "share_later = 0", "'liner'.*linear"),
        ("", "share_later = 1", "share_later = 0", "share_later: is for a mix that moves"),
        ('drift = "flip"', "share_later = 1", "", "tier 'b': a mix that drifts needs share_later"),
        ('drift = "flip"', "share_later = 1", "share_later = 0.5", "share_later: shares must sum to 1, got 1.5"),
        ('drift = "flip"', "share_later = 2", "share_later = -1", "share_later must be > 0, got -1"),
    ],
)
def test_a_mix_that_can_not_move_is_refused(tmp_path, drift, a, b, said):
    """What, got, allowed, and the key to set."""
    file = tmp_path / "mix.toml"
    file.write_text(MIX.format(drift=drift, a=a, b=b))
    with pytest.raises(ConfigError, match=said):
        load_slo_mix(file)


def test_a_class_may_end(tmp_path):
    """A later share of 0 is allowed: the class is gone at the end."""
    file = tmp_path / "mix.toml"
    file.write_text(MIX.format(drift='drift = "flip"', a="share_later = 1", b="share_later = 0"))
    workload = laid(file)
    assert (workload.tier[COUNT // 2 :] == 0).all()
