"""From a model's configuration to the belief of its fleet: roles, mode, policy."""

from __future__ import annotations

import pytest

from polyslo.core.state import DECODE_ONLY, EITHER, PREFILL_ONLY
from polyslo.gateway.config.gateway import parse_config
from polyslo.gateway.fleets import live_config, live_fleet

PREFILL, IDLE = 2, 3  # the groups, with two tiers


def model(roles, **more):
    """Return a model in mode pd whose endpoints have these roles."""
    endpoints = [
        {"url": f"http://a:{k + 1}", **({} if role is None else {"role": role})} for k, role in enumerate(roles)
    ]
    return parse_config({"models": [{"mode": "pd", "endpoints": endpoints, **more}]}, "f.toml").models[0]


def test_roles_are_the_endpoints_own():
    """In their order, whatever that is; the simulator is told how many there are of each."""
    mixed = model(["prefill", None, "decode", "prefill"])
    fleet, spec = live_fleet(mixed, (0.02, 0.05), 8)
    assert fleet.instances["role"][:4].tolist() == [PREFILL_ONLY, EITHER, DECODE_ONLY, PREFILL_ONLY]
    assert set(fleet.instances["group"].tolist()) == {IDLE}
    config = live_config(mixed)
    assert (config.mode, config.first_from_decode) == ("pd", True)
    assert (config.num_prefill_only, config.num_decode_only) == (2, 1)
    assert spec.kind.elastic


def test_stock_engines_get_polyserve_whatever_their_chunk():
    """A full step of 8,192 tokens is longer than any TPOT, but no decode waits for it."""
    fleet, spec = live_fleet(model([None, None]), (0.02, 0.05), 8)
    assert (spec.name, spec.without) == ("polyserve", frozenset({"chunking"}))
    assert fleet.settings["by_deadline"][0] == 0


@pytest.mark.parametrize(
    ("roles", "allowed"),
    [(["decode", "prefill", "decode"], [{0}, {PREFILL}, {0}]), (["prefill", None, None], [{PREFILL}, {0, 2}, {0, 2}])],
)
def test_a_policy_with_a_fixed_split_keeps_to_the_roles(roles, allowed):
    """Each instance is on its side, and both sides have one."""
    fleet, _ = live_fleet(model(roles, policy="minimal"), (0.02, 0.05), 8)
    groups = fleet.instances["group"][: len(roles)].tolist()
    assert all(group in side for group, side in zip(groups, allowed, strict=True))
    assert {0, PREFILL} == set(groups)


def test_transfers_take_what_the_configuration_says():
    """Milliseconds and gigabytes a second there, seconds and seconds a token here."""
    fleet, _ = live_fleet(model([None, None], transfer_ms=7, transfer_gb_per_s=10.0), (0.02, 0.05), 8)
    kv_bytes = float(fleet.profile.physics["kv_bytes_per_token"][0])
    assert fleet.settings["transfer_s"][0] == pytest.approx(0.007)
    assert fleet.settings["transfer_s_per_token"][0] == pytest.approx(kv_bytes / 1e10)
