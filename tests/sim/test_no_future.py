"""No decision reads the future (I22): a trace and its beginning give the same run until the first request that differs.

The beginning is a workload of its own, built from its requests alone: nothing of the others is in memory. Only a fixed
partition is taken from the whole trace, as it is sized by all requests' lengths and tiers before the run begins;
nothing else of a fleet may depend on them.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from polyslo.policies.table import POLICIES
from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.loop import PAUSED, advance
from polyslo.sim.run import build_world

NUM_REQUESTS = 400
CUTS = (60, 61, 128, 199, 200, 256, 310, 399)  # requests before the first that only the whole trace has
PARTITION = ("instances", "order", "group_size", "group_since_s")

VARIANTS = {
    "learned": {},
    "known": {"lengths": "known"},
    "keep": {"relegate": False, "lengths": "mean"},
    "refuse": {"refuse": True, "noise_ratio": 0.1},
    "late-news": {"telemetry_delay_s": 0.02, "cold_start_s": 0.5},
    "little-kv": {"kv_capacity_tokens": 20_000},
}


@pytest.mark.parametrize("variant", sorted(VARIANTS))
@pytest.mark.parametrize("mode", ["co", "pd"])
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_requests_to_come_change_nothing(make_workload, profile, name, mode, variant):
    """I22: belief, engines and all requests so far are the same, to the last bit, whether others are to come or not."""
    whole, policy = make_workload(NUM_REQUESTS, 110.0), PolicySpec.parse(name)
    config = FleetConfig(num_instances=4, mode=mode, **VARIANTS[variant])
    world = build_world(whole, profile, policy, config)
    partition = _partition(world)
    for cut in CUTS:
        part = build_world(_beginning(whole, cut), profile, policy, config)
        if not policy.kind.elastic:
            for array, values in zip(_partition(part, copied=False), partition, strict=True):
                array[...] = values
        until_s = np.nextafter(whole.arrival_s[cut], -np.inf)
        for run in (world, part):
            run.clock["pause_s"] = until_s
            assert advance(run.handle) == PAUSED
            assert run.clock["cursor"][0] == cut
        told, known = _state(world, cut), _state(part, cut)
        for field in known:
            assert told[field].tobytes() == known[field].tobytes(), f"I22: {field} differs at request {cut}"
    assert (world.fleet.requests["decided_s"][: CUTS[-1]] > 0).mean() > 0.5, "hardly anything was decided"


@pytest.mark.parametrize("mode", ["co", "pd"])
@pytest.mark.parametrize("name", [name for name in sorted(POLICIES) if POLICIES[name].elastic])
def test_what_is_to_come_changes_nothing(make_workload, profile, name, mode):
    """I22: other requests to come, longer ones of another tier, give the same run until they come."""
    whole = make_workload(NUM_REQUESTS, 110.0)
    other = {name: getattr(whole, name).copy() for name in ("input_tokens", "output_tokens", "tier", "tpot_s")}
    cut = NUM_REQUESTS // 2
    for name_of, values in other.items():
        values[cut:] = 3 * values[cut:] if name_of.endswith("tokens") else values[cut:].min()
    config = FleetConfig(num_instances=4, mode=mode)
    states = []
    for workload in (whole, replace(whole, **other)):
        world = build_world(workload, profile, PolicySpec.parse(name), config)
        world.clock["pause_s"] = np.nextafter(whole.arrival_s[cut], -np.inf)
        assert advance(world.handle) == PAUSED
        states.append(_state(world, cut))
    for field in states[0]:
        assert states[0][field].tobytes() == states[1][field].tobytes(), f"I22: {field} differs"


def _beginning(whole, cut):
    """Return the first `cut` requests, in arrays of their own."""
    parts = {}
    for field in fields(whole):
        values = getattr(whole, field.name)
        if np.shape(values) == whole.arrival_s.shape:
            parts[field.name] = values[:cut].copy()
    return replace(whole, **parts)


def _partition(world, *, copied=True):
    arrays = [getattr(world.fleet, name) for name in PARTITION] + [world.engines]
    return [array.copy() for array in arrays] if copied else arrays


def _state(world, cut):
    """Return what was decided, believed and done so far; of what has room for every request, the first `cut`."""
    fleet, clock = world.fleet, world.clock[0]
    queued = [fleet.pending[k, :size] for k, size in enumerate(fleet.pending_size)]
    events = np.argsort(world.event_sequence[: clock["num_events"]])
    news = np.arange(clock["fact_head"], clock["fact_tail"]) % len(world.fact)
    names = ("instances", "settings", "order", "group_size", "resident", "resident_finish", "pending_size", "turn")
    return {
        "requests": fleet.requests[:cut],
        "jobs": world.jobs[:cut],
        "engines": world.engines,
        **{name: getattr(fleet, name) for name in (*names, "length_weight", "length_tokens", "counters")},
        "pending": np.concatenate(queued),
        "events": world.event[events],
        "event_s": world.event_s[events],
        "news": world.fact[news],
        "news_s": world.fact_s[news],
        **{name: world.clock[name] for name in ("now_s", "random_state", "num_iterations", "num_preemptions")},
    }
