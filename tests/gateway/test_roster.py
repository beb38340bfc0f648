"""Room for instances that come later: in the roster, and in the fleet of policies that fix who owns what."""

from __future__ import annotations

import numpy as np
import pytest

from polyslo.core.fluid import LengthMoments, instance_need
from polyslo.gateway.config.gateway import parse_config
from polyslo.gateway.config.table import MistakenConfigError
from polyslo.gateway.instances.instance import Instance
from polyslo.gateway.instances.roster import Roster
from polyslo.profiles.library import load_profile
from polyslo.sim.fleet import FleetConfig, PolicySpec, build_fleet

TPOTS_S = np.array([0.02, 0.05, 0.1])
LENGTHS = LengthMoments.of(np.array([1000]), np.array([200]))
SHARES = np.full(3, 1 / 3)


def _fleet(policy, num_instances, num_slots=0):
    profile = load_profile("llama-3.1-8b-h200-tp1").profile
    config = FleetConfig(num_instances=num_instances)
    return build_fleet(config, PolicySpec.parse(policy), profile, TPOTS_S, SHARES, LENGTHS, 8, num_slots)


def test_fixed_tiers_take_in_who_comes_later():
    """The first instances are split as without room; each later one goes to the tier furthest below its share."""
    without, fleet = _fleet("static-tiers", 6), _fleet("static-tiers", 6, 40)
    groups = fleet.instances["group"]
    assert groups[:6].tolist() == without.instances["group"].tolist()
    need = instance_need(load_profile("llama-3.1-8b-h200-tp1").profile, TPOTS_S, SHARES, LENGTHS, mode="co")
    for count in range(12, 41):
        counts = np.bincount(groups[:count], minlength=len(need))
        assert np.abs(counts - need / need.sum() * count).max() <= 2.0


def test_elastic_tiers_have_all_room_in_the_pool():
    """Whoever comes later is idle first."""
    fleet = _fleet("polyserve", 2, 5)
    assert fleet.group_size.tolist() == [0, 0, 0, 0, 5]


def test_a_roster_goes_through_those_that_are_there():
    """Slots are found again by index, name and URL; the first free one is given next."""
    roster = Roster([Instance(k, f"i{k}", f"http://i{k}:1", None) for k in range(3)], 4)
    roster.remove(1)
    assert [instance.index for instance in roster] == [0, 2]
    assert (len(roster), roster.num_slots, roster.vacant) == (2, 4, [1, 3])
    assert roster.get(1) is None
    with pytest.raises(KeyError):
        roster[1]
    assert roster.find("i2") is roster.find("http://i2:1/") is roster[2]
    assert roster.find("i1") is None
    for k in (1, 3):
        roster.put(Instance(k, f"n{k}", f"http://n{k}:1", None))
    assert roster.vacant == []


@pytest.mark.parametrize(
    ("model", "num_slots"),
    [({"endpoints": 3}, 16), ({"endpoints": 20}, 40), ({"endpoints": 3, "max_instances": 3}, 3)],
)
def test_room_is_bounded_by_the_configuration(model, num_slots):
    """`max_instances`, else twice as many as at first, at least 16; never fewer than there are."""
    endpoints = [{"url": f"http://h:{k + 1}"} for k in range(model["endpoints"])]
    config = parse_config({"models": [{**model, "endpoints": endpoints}]}, "g.toml")
    assert config.models[0].num_slots == num_slots
    with pytest.raises(MistakenConfigError, match="max_instances: must be at least its instances"):
        parse_config({"models": [{"max_instances": 1, "endpoints": [*endpoints, {"url": "http://g:1"}]}]}, "g.toml")
