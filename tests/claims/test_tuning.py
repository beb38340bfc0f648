"""Which variants of the baselines are tried, and what follows from how they fared."""

from __future__ import annotations

import pytest

from polyslo.claims.cases import OURS, Case, family
from polyslo.claims.tuning import refinements, variants
from polyslo.policies.table import POLICIES
from polyslo.sim.fleet import PolicySpec, whole_shares

SETTING = Case("azure2023-conv", "pd").setting()
FLUID = int(whole_shares(SETTING.need_per_rps(), 20)[-1])


@pytest.mark.parametrize("mode", ["co", "pd"])
def test_every_variant_is_a_policy_and_comes_once(mode):
    """Each of them can be parsed."""
    found = variants(Case("azure2023-conv", mode).setting())
    assert len(set(found)) == len(found)
    for policy in found:
        PolicySpec.parse(policy)


@pytest.mark.parametrize("mode", ["co", "pd"])
def test_no_baseline_is_left_without_parameters(mode):
    """Each has at least two variants, but for two that are co-located: they have nothing to vary."""
    found = variants(Case("azure2023-conv", mode).setting())
    alone = {name for name in POLICIES if name != OURS and sum(family(policy) == name for policy in found) < 2}
    assert alone == ({"static-tiers", "minimal"} if mode == "co" else set())


def test_the_best_chunk_is_tried_with_the_best_split_and_splits_further_on():
    """With one instance more for prefill best, two more are tried; what is best with its defaults is left alone."""
    rates = dict.fromkeys(variants(SETTING), 100.0)
    rates["chunk:chunk=4096"] = rates[f"chunk:prefill={FLUID + 1}"] = 120.0
    rates[f"static-tiers:prefill={FLUID - 1}"] = 110.0
    rates["lmetric:chunk=1024"] = 105.0
    found = refinements(SETTING, rates)
    assert sorted(found) == sorted([
        f"chunk:chunk=4096,prefill={FLUID + 1}", f"chunk:prefill={FLUID + 2}", f"static-tiers:prefill={FLUID - 2}",
    ])  # fmt: skip
    assert refinements(Case("azure2023-conv", "co").setting(), rates) == []
