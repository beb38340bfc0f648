"""Conservation over policies, modes and disturbances: what arrives ends, and nothing is left behind."""

from __future__ import annotations

import pytest

from polyslo.policies.table import POLICIES
from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.run import build_world

from .invariants import run_checked, run_to_end

NAMES = sorted(POLICIES)


@pytest.mark.parametrize("relegate", [True, False], ids=["relegate", "keep"])
@pytest.mark.parametrize("mode", ["co", "pd"])
@pytest.mark.parametrize("name", NAMES)
def test_all_is_conserved_for_every_policy_at_moderate_load(make_workload, profile, name, mode, relegate):
    """I1-I11: every arrival ends once and engines, belief, queues and groups end empty."""
    config = FleetConfig(num_instances=5, mode=mode, relegate=relegate)
    run_checked(make_workload(800, 70.0), profile, PolicySpec.parse(name), config)


@pytest.mark.parametrize("lengths", ["known", "learned", "mean"])
@pytest.mark.parametrize("relegate", [True, False], ids=["relegate", "keep"])
@pytest.mark.parametrize("mode", ["co", "pd"])
def test_all_is_conserved_over_capacity(make_workload, profile, mode, relegate, lengths):
    """I1-I11 hold at about twice the fluid optimum, however output lengths are estimated."""
    config = FleetConfig(num_instances=3, mode=mode, relegate=relegate, lengths=lengths)
    run_checked(make_workload(1200, 140.0), profile, PolicySpec.parse("polyserve"), config)


DISAGGREGATED = {
    "first-from-decode": {"first_from_decode": True},
    "roles": {"num_prefill_only": 2, "num_decode_only": 2},
    "roles-first-from-decode": {"num_prefill_only": 1, "num_decode_only": 2, "first_from_decode": True},
    "slow-transfers": {"transfer_s": 0.1},
}


@pytest.mark.parametrize("rate_rps", [50.0, 140.0])
@pytest.mark.parametrize("variant", sorted(DISAGGREGATED))
@pytest.mark.parametrize("name", NAMES)
def test_all_is_conserved_however_a_fleet_is_disaggregated(make_workload, profile, name, variant, rate_rps):
    """I1-I11: the decode side gives the first token, instances can do one side only, transfers are slow."""
    config = FleetConfig(num_instances=5, mode="pd", **DISAGGREGATED[variant])
    run_checked(make_workload(600, rate_rps), profile, PolicySpec.parse(name), config)


@pytest.mark.parametrize("mode", ["co", "pd"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_happens_at_another_time_than_its_own(make_workload, profile, name, mode):
    """I8: at each moment the clock shows it, and what is decided and emitted then has that time."""
    config = FleetConfig(num_instances=4, mode=mode, noise_ratio=0.1, telemetry_delay_s=0.01, cold_start_s=0.5)
    workload = make_workload(300, 70.0)
    run_checked(workload, profile, PolicySpec.parse(name), config, exact=False, every_moment=True)


DISTURBANCES = {
    "noise": ({"noise_ratio": 0.1}, False),
    "delay": ({"telemetry_delay_s": 0.05}, False),
    "cold-start": ({"cold_start_s": 5.0}, True),
    "stragglers": ({"num_stragglers": 2, "slowness": 1.8}, False),
    "few-slots": ({"max_residents": 16}, True),
    "margin": ({"margin_ratio": 0.1}, True),
    "no-promotion": ({"promote": False}, True),
    "tiny-kv": ({"kv_capacity_tokens": 20_000}, False),
    "all": (
        {"noise_ratio": 0.1, "telemetry_delay_s": 0.05, "cold_start_s": 5.0, "num_stragglers": 1},
        False,
    ),
}


@pytest.mark.parametrize("relegate", [True, False], ids=["relegate", "keep"])
@pytest.mark.parametrize("mode", ["co", "pd"])
@pytest.mark.parametrize("name", ["polyserve", "minimal"])
@pytest.mark.parametrize("disturbance", sorted(DISTURBANCES))
def test_all_is_conserved_when_the_fleet_misbehaves(request, make_workload, profile, disturbance, name, mode, relegate):
    """I1-I3, I5-I11 hold under noise, delays, cold starts, slow instances and little memory."""
    options, exact = DISTURBANCES[disturbance]
    config = FleetConfig(num_instances=4, mode=mode, relegate=relegate, **options)
    workload = make_workload(600, 50.0)
    if disturbance == "tiny-kv":
        fits = workload.input_tokens + workload.output_tokens < 20_000
        assert fits.all()
    run_checked(workload, profile, PolicySpec.parse(name), config, exact=exact)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("minimal", "co"),
        ("polyserve", "co"),
        ("polyserve", "pd"),
        ("minimal", "pd"),
    ],
)
def test_an_engine_keeps_to_its_slots(make_workload, profile, name, mode):
    """I3: engines that may decode 16 requests never use a 17th slot (the arrays here have room for 1,024)."""
    config = FleetConfig(num_instances=4, mode=mode)
    world = build_world(make_workload(600, 50.0), profile, PolicySpec.parse(name), config)
    world.engines["max_decodes"] = 16
    world.fleet.instances["max_residents"] = 16
    run_to_end(world)
    assert (world.slot_tpot_s > 0).sum(axis=1).max() <= 16


@pytest.mark.parametrize("mode", ["co", "pd"])
def test_little_memory_preempts_and_still_serves(make_workload, profile, mode):
    """I1, I2: with 20,000 KV tokens decodes lose their KV, are recomputed, and every output is complete."""
    config = FleetConfig(num_instances=4, mode=mode, kv_capacity_tokens=20_000, relegate=False)
    world = run_checked(make_workload(600, 50.0), profile, PolicySpec.parse("minimal"), config, exact=False)
    assert world.clock["num_preemptions"][0] == world.jobs["num_preemptions"].sum() > 0
