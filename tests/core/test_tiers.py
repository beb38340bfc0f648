"""Tiers as bins: the dynamic program against brute force, the number of tiers, and the learner of a stream."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyslo.core.tiers import LEAST_REQUESTS, TierLearner, learn_tiers, need_of_tiers, served_share, tier_of
from polyslo.errors import ConfigError, InputError

tpots = st.lists(st.integers(20, 60).map(lambda ms: ms / 1e3), min_size=1, max_size=9)


def steep(tpot_s: float) -> float:
    """Need that halves when the TPOT doubles."""
    return 0.001 / tpot_s


def flat(tpot_s: float) -> float:
    """Need that no TPOT lowers."""
    return 0.05


def brute_force(asked_s, weights, need_of, num_tiers) -> float:
    """Return the smallest need over every choice of at most `num_tiers` edges; the tightest TPOT is always one."""
    least_s, *others = sorted(set(asked_s))
    choices = [(least_s, *rest) for k in range(num_tiers) for rest in combinations(others, k)]
    return min(need_of_tiers(asked_s, weights, edges, need_of)[0] for edges in choices)


@given(tpots, st.integers(1, 5), st.data())
def test_bins_need_as_little_as_the_best_of_all_choices(asked_s, num_tiers, data):
    """With weights and repeated TPOTs too; the need reported is that of the tiers returned."""
    weights = data.draw(st.lists(st.floats(0.1, 9), min_size=len(asked_s), max_size=len(asked_s)))
    learned = learn_tiers(asked_s, steep, num_tiers=num_tiers, weights=weights)
    assert len(learned.tpots_s) <= num_tiers
    assert learned.need == pytest.approx(brute_force(asked_s, weights, steep, num_tiers))
    assert learned.need == pytest.approx(need_of_tiers(asked_s, weights, learned.tpots_s, steep)[0])
    assert learned.need >= learned.ideal_need - 1e-12


@given(tpots, st.integers(1, 12), st.sampled_from([0.0, 0.05, 0.5]))
def test_the_number_of_tiers_is_the_one_that_serves_most(asked_s, num_instances, lost):
    """Of every number of tiers, the chosen one has the least need per instance that is left to serve."""
    learned = learn_tiers(asked_s, steep, num_instances=num_instances, other_need=0.01, lost_instances=lost)
    ones = np.ones(len(asked_s))

    def cost(num_tiers):
        need = brute_force(asked_s, ones, steep, num_tiers) + 0.01
        return need / served_share(num_tiers, num_instances, lost)

    assert (learned.need + 0.01) / served_share(len(learned.tpots_s), num_instances, lost) == pytest.approx(
        min(cost(k) for k in range(1, 1 + len(set(asked_s))))
    )


def test_more_instances_allow_more_tiers():
    """A small fleet can't afford the fragments of tiers that a large one gains from."""
    asked_s = np.geomspace(0.02, 0.2, 40)
    counts = [len(learn_tiers(asked_s, steep, num_instances=n, lost_instances=0.5).tpots_s) for n in (1, 4, 20, 200)]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[-1] > 5


def test_tiers_that_save_nothing_are_left_out():
    """Where pace is free, one tier does, however many are allowed; it keeps the tightest TPOT."""
    assert learn_tiers([0.05, 0.02, 0.1], flat, num_tiers=3).tpots_s == (0.02,)
    assert learn_tiers([0.05, 0.05], steep, num_tiers=3).tpots_s == (0.05,)


def test_a_need_that_rises_within_a_tolerance_does_not_split_tiers():
    """A solver's rounding is not a reason for a tier."""
    assert learn_tiers([0.02, 0.03, 0.04], lambda t: 0.05 + 1e-5 * (t > 0.025), num_tiers=3).tpots_s == (0.02,)


def test_many_tpots_are_grouped_and_every_request_keeps_a_tier():
    """Thousands of different TPOTs are learned from at most 256; the tightest still has a tier, the need is close."""
    asked_s = np.random.default_rng(1).uniform(0.02, 0.1, 5000)
    learned = learn_tiers(asked_s, steep, num_tiers=4)
    assert learned.tpots_s[0] == asked_s.min()
    assert tier_of(asked_s, learned.tpots_s).max() == 3
    need, used = need_of_tiers(asked_s, np.ones(5000), learned.tpots_s, steep)
    assert used == 4
    assert learned.need == pytest.approx(need, rel=0.01)
    assert learned == learn_tiers(asked_s[::-1], steep, num_tiers=4)


def test_a_request_belongs_to_the_loosest_tier_that_is_not_looser():
    """On an edge it belongs to the tier that begins there."""
    assert tier_of([0.02, 0.027, 0.03, 0.041, 9.0], [0.02, 0.03, 0.04]).tolist() == [0, 0, 1, 2, 2]
    with pytest.raises(ConfigError, match="asks for a TPOT of 15 ms, the tightest tier keeps 20 ms; add a tier of 15"):
        tier_of([0.05, 0.015], [0.02, 0.03])


def test_what_can_not_be_learned_is_said():
    """No requests, and a TPOT that no instance reaches."""
    with pytest.raises(InputError, match="no request asks for a TPOT"):
        learn_tiers([], steep, num_tiers=2)
    with pytest.raises(InputError, match="tier 10 ms: no instance can serve it"):
        learn_tiers([0.005, 0.01, 0.02], lambda t: steep(t) if t > 0.015 else np.inf, num_tiers=2)
    with pytest.raises(ValueError, match="num_tiers, or num_instances"):
        learn_tiers([0.02], steep)


def fed(learner, tpots_s, *, from_s=0.0, every_s=0.1) -> float:
    """Show the learner requests at a steady pace and return the time of the last."""
    for k, tpot_s in enumerate(tpots_s):
        learner.see(tpot_s, from_s + k * every_s)
    return from_s + (len(tpots_s) - 1) * every_s


def test_the_learner_waits_for_evidence_and_then_proposes():
    """Nothing from a few requests; afterwards tiers that begin at TPOTs that were asked for."""
    learner = TierLearner(steep, num_instances=20, half_life_s=1e9)
    now_s = fed(learner, [0.02, 0.05] * int(LEAST_REQUESTS / 2 - 1))
    assert learner.propose((), now_s) is None
    now_s = fed(learner, [0.02, 0.05] * 20, from_s=now_s)
    learned = learner.propose((), now_s)
    assert learned is not None
    assert learned.tpots_s == (0.02, 0.05)


def test_the_learner_keeps_tiers_that_are_nearly_as_good():
    """Its own proposal is not proposed again, nor one that gains less than the threshold; a larger gain is."""
    learner = TierLearner(steep, num_instances=20, half_life_s=1e9, least_gain_ratio=0.05)
    now_s = fed(learner, [0.02, 0.05] * 200)
    assert learner.propose((0.02, 0.05), now_s) is None
    assert learner.propose((0.02, 0.0495), now_s) is None
    assert learner.propose((0.02, 0.03), now_s) is not None
    assert learner.propose((0.02, 0.05, 0.3), now_s) is None  # a tier that nobody asks for owns nothing


def test_the_learner_follows_a_shift_and_forgets():
    """When callers change, old requests fade and the tiers follow; a tighter one than all tiers always counts."""
    learner = TierLearner(steep, num_instances=20, half_life_s=10.0)
    now_s = fed(learner, [0.02, 0.05] * 500)
    now_s = fed(learner, [0.04, 0.1] * 1000, from_s=now_s)
    learned = learner.propose((0.02, 0.05), now_s)
    assert learned is not None
    assert learned.tpots_s == (0.04, 0.1)
    learner.see(0.03, now_s)
    again = learner.propose((0.04, 0.1), now_s)
    assert again is not None
    assert again.tpots_s[0] == 0.03


def test_the_learner_counts_tpots_outside_its_range():
    """Below 1 ms and above 16 s they count in the end bins, with their own TPOT as the edge."""
    learner = TierLearner(steep, num_instances=100, half_life_s=1e9)
    learned = learner.propose((), fed(learner, [0.0005, 30.0] * 200))
    assert learned is not None
    assert learned.tpots_s == (0.0005, 30.0)


def test_the_learner_is_deterministic():
    """The same requests at the same times give the same tiers."""
    asked_s = np.random.default_rng(3).uniform(0.02, 0.2, 2000)
    first, second = (TierLearner(steep, num_instances=20, num_tiers=4) for _ in range(2))
    assert first.propose((), fed(first, asked_s)) == second.propose((), fed(second, asked_s))
