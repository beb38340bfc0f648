"""Each baseline places by its own rule (I20)."""

from __future__ import annotations

import pytest

from polyslo.core.belief import enqueue
from polyslo.core.gradient import change_load
from polyslo.core.state import TRANSFERRING, UNHEALTHY
from polyslo.errors import ConfigError
from polyslo.policies.least_loaded import least_loaded
from polyslo.policies.lmetric import smallest_product
from polyslo.policies.random import anyone
from polyslo.policies.round_robin import next_in_turn
from polyslo.policies.slo_least_load import least_loaded_in_time
from polyslo.policies.static_tiers import least_loaded_of_tier
from polyslo.policies.table import POLICIES
from polyslo.sim.fleet import PolicySpec


def _picks(rule, fleet, count):
    return [int(rule(fleet.handle, 0, 0.0)) for _ in range(count)]


def test_random_follows_its_seed(fleet_of):
    """I20: the same state gives the same choices, another state others, and every instance is chosen."""
    picks = []
    for state in (1, 1, 2):
        fleet = fleet_of("random")
        fleet.settings["random_state"] = state
        picks.append(_picks(anyone, fleet, 200))
    assert picks[0] == picks[1] != picks[2]
    counts = [picks[0].count(i) for i in range(4)]
    assert min(counts) > 30  # 50 each on average


def test_random_avoids_the_unhealthy(fleet_of):
    """I20: an unhealthy instance is never chosen; where all are, the request is refused."""
    fleet = fleet_of("random")
    fleet.instances["closed"][2] = UNHEALTHY
    assert 2 not in _picks(anyone, fleet, 200)
    fleet.instances["closed"] = UNHEALTHY
    assert _picks(anyone, fleet, 1) == [-1]


def test_round_robin_takes_turns(fleet_of):
    """I20: instances in order of number, whatever their load, the unhealthy left out."""
    fleet = fleet_of("round-robin")
    change_load(fleet.handle, 2, 500)
    assert _picks(next_in_turn, fleet, 6) == [0, 1, 2, 3, 0, 1]
    fleet.instances["closed"][3] = UNHEALTHY
    assert _picks(next_in_turn, fleet, 4) == [2, 0, 1, 2]


def test_minimal_takes_the_least_loaded(fleet_of):
    """I20: loads 400, 100, 300, 200: instance 1, and 3 when 1 is unhealthy."""
    fleet = fleet_of("minimal")
    for i, load in enumerate((400, 100, 300, 200)):
        change_load(fleet.handle, i, load)
    assert _picks(least_loaded, fleet, 1) == [1]
    fleet.instances["closed"][1] = UNHEALTHY
    assert _picks(least_loaded, fleet, 1) == [3]


def test_lmetric_takes_the_smallest_product(fleet_of):
    """I20: (queued + 100 + 1) x (batch + 1): 101 x 11 = 1111, 1101 x 1 = 1101, 301 x 5 = 1505, 2101 x 2 = 4202."""
    fleet = fleet_of("lmetric")
    fleet.instances["num_decodes"] = (10, 0, 4, 1)
    fleet.instances["queued_tokens"] = (0, 1000, 200, 2000)
    assert _picks(smallest_product, fleet, 1) == [1]
    fleet.instances["num_decodes"][0] = 9  # 101 x 10 = 1010
    assert _picks(smallest_product, fleet, 1) == [0]


def test_slo_least_load_falls_back_to_the_least_loaded(fleet_of):
    """I20: the least loaded where the SLO can be met; where it can't be met anywhere, the least loaded too."""
    fleet = fleet_of("slo-least-load")
    for i, load in enumerate((400, 100, 300, 200)):
        change_load(fleet.handle, i, load)
    assert _picks(least_loaded_in_time, fleet, 1) == [1]
    fleet.requests["first_due_s"] = fleet.requests["prefill_due_s"] = 0.0001
    assert _picks(least_loaded_in_time, fleet, 1) == [1]


@pytest.mark.parametrize("mode", ["co", "pd"])
def test_slo_least_load_passes_over_who_would_be_late(fleet_of, mode):
    """I20: the least loaded has 100,000 prompt tokens to prefill, six seconds of work, and the TTFT is one second."""
    fleet = fleet_of("slo-least-load", num_instances=8, mode=mode)
    busy, following = _load_two(fleet, len(fleet.tpots_s) if mode == "pd" else 0)
    for name in ("input_tokens", "prefill_tokens", "remaining_tokens"):
        fleet.requests[name][1] = 100_000
    enqueue(fleet.handle, 1, busy, 0.0)
    assert _picks(least_loaded, fleet, 1) == [busy]
    assert _picks(least_loaded_in_time, fleet, 1) == [following]
    fleet.requests["first_due_s"] = fleet.requests["prefill_due_s"] = 10.0
    assert _picks(least_loaded_in_time, fleet, 1) == [busy]


@pytest.mark.parametrize("mode", ["co", "pd"])
def test_slo_least_load_passes_over_who_would_be_slow(fleet_of, mode):
    """I20: the least loaded can't give a token every 50 ms, as it is 50 times slower than the profile."""
    fleet = fleet_of("slo-least-load", num_instances=8, mode=mode)
    if mode == "pd":
        fleet.requests["stage"] = TRANSFERRING
    slow, following = _load_two(fleet, 0)
    fleet.requests["first_due_s"] = fleet.requests["prefill_due_s"] = 10.0
    assert _picks(least_loaded_in_time, fleet, 1) == [slow]
    fleet.instances["slowness"][slow] = 50.0
    assert _picks(least_loaded, fleet, 1) == [slow]
    assert _picks(least_loaded_in_time, fleet, 1) == [following]


def _load_two(fleet, group):
    """Load a group's instances: one with nothing, one with 200,000 tokens, the others with more; return these two."""
    members = sorted(fleet.order[group, : fleet.group_size[group]].tolist())
    assert len(members) >= 2
    for i in members:
        change_load(fleet.handle, i, 300_000 + i)
    change_load(fleet.handle, members[-1], -300_000 - members[-1])
    change_load(fleet.handle, members[0], -100_000)
    return members[-1], members[0]


def test_static_tiers_stay_in_their_tier(fleet_of):
    """I20: a tier's request goes to the least loaded of the tier's own instances."""
    fleet = fleet_of("static-tiers")
    for tier in (0, 1):
        fleet.requests["tier"] = tier
        assert fleet.instances["group"][_picks(least_loaded_of_tier, fleet, 1)[0]] == tier


@pytest.mark.parametrize("name", ["minimal", "random", "round-robin", "lmetric", "slo-least-load"])
def test_disaggregated_requests_enter_on_the_prefill_side(fleet_of, name):
    """I20: in PD a new request goes to a prefill instance."""
    from polyslo.policies.table import choose

    fleet = fleet_of(name, mode="pd")
    i = choose(PolicySpec.parse(name).kind.code, fleet.handle, 0, 0.0)
    assert fleet.instances["group"][i] == len(fleet.tpots_s)


def test_names_and_options_are_checked():
    """I20: an unknown policy suggests the nearest; unknown options and bad values are refused."""
    with pytest.raises(ConfigError, match="polyserve"):
        PolicySpec.parse("polyserv")
    with pytest.raises(ConfigError, match="chunk"):
        PolicySpec.parse("chunk:chunks=5")
    with pytest.raises(ConfigError, match="chunk"):
        PolicySpec.parse("chunk:chunk=1")
    with pytest.raises(ConfigError, match="relegate"):
        PolicySpec.parse("chunk:relegate=maybe")
    with pytest.raises(ConfigError, match="refuse must be on or off"):
        PolicySpec.parse("polyserve:refuse=maybe")
    with pytest.raises(ConfigError, match="can't be loaded"):
        PolicySpec.parse("no_such_module:place")


def test_options_are_read():
    """I20: `chunk:chunk=256,relegate=off` sets both; each policy has its own default chunk."""
    spec = PolicySpec.parse("chunk:chunk=256,relegate=off")
    assert (spec.chunk_tokens, spec.relegate, spec.refuse) == (256, False, None)
    assert PolicySpec.parse("polyserve:refuse=on").refuse is True
    assert PolicySpec.parse("chunk").chunk_tokens == POLICIES["chunk"].default_chunk
