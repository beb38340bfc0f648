"""An engine whose KV runs out, worked out by hand to the token (I17); the profile is that of linear_profile.py.

An iteration takes 5 ms + 0.01 ms a batch token + 0.0001 ms a KV token of its decodes.
"""

from __future__ import annotations

import numpy as np
import pytest
from linear_profile import linear_profile

from polyslo.core.state import QUEUED
from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.loop import FINISHED, PAUSED, advance
from polyslo.sim.run import build_world
from polyslo.sim.world import ATTAINED, MISSED
from polyslo.workload.workload import Workload


def _engine(policy, capacity, requests, tpot_s, **fields):
    """Return a world of one instance or more for requests of (arrival, prompt, output, TTFT), with the same TPOT."""
    arrival_s, input_tokens, output_tokens, ttft_s = (np.array(column) for column in zip(*requests, strict=True))
    same = np.ones(len(requests))
    workload = Workload(
        "by hand", arrival_s, input_tokens.astype(np.int32), output_tokens.astype(np.int32), ttft_s, tpot_s * same,
        (tpot_s,), np.zeros(len(requests), dtype=np.int32),
    )  # fmt: skip
    config = FleetConfig(**{"num_instances": 1, "kv_capacity_tokens": capacity, "relegate": False, **fields})
    return build_world(workload, linear_profile(), PolicySpec.parse(policy), config)


def _run_until(world, now_s):
    world.clock["pause_s"] = now_s
    return advance(world.handle)


def _ends_s(world):
    """Run to the end, from one event to the next, all of which are ends of iterations; return their times."""
    assert _run_until(world, 0.0) == PAUSED
    ends_s = []
    while world.clock["num_events"][0] > 0:
        ends_s.append(float(world.event_s[0]))
        _run_until(world, ends_s[-1])
    assert _run_until(world, np.inf) == FINISHED
    return ends_s


@pytest.mark.parametrize(("tpot_s", "outcome"), [(0.0055, MISSED), (0.006, ATTAINED)])
def test_the_latest_loses_its_kv_and_is_prefilled_again(tpot_s, outcome):
    """I17: 205 KV tokens hold two decodes of 100 for two iterations; then the second's 3 tokens cost 103 more.

    1. 0 to 6 ms: the first's prompt, 5 + 1. It decodes from now on, over 100, 101, ... tokens.
    2. to 12.02: the second's prompt, 5 + 1.01 + 0.01. KV 201: there is room for two tokens, and again at 203.
    3. to 17.0601, 4. to 22.1004: both decode, 5 + 0.02 + 0.0201, then 0.0203. KV 205: not for two more.
    5. to 27.1207, 6. to 32.1411: the first alone, 5 + 0.01 + 0.0103, then 0.0104; with 6 tokens it has ended. The
       second's 103 tokens wait for as much room (205 - 103 - 1 = 101), and the third, of 50, behind it.
    7. to 38.6711: 103 + 50 prompt tokens, 5 + 1.53: the second's 4th token, and the third's only one.
    8. to 43.6914: its 5th and last, 5 + 0.01 + 0.0103.

    Its 4th token is due at 1 + 20 + 3 x 5.5 = 37.5 ms, with a TPOT of 6 at 39 ms, its 5th then at 45 ms.
    """
    requests = [(0.0, 100, 6, 0.02), (0.001, 100, 5, 0.02), (0.018, 50, 1, 0.1)]
    world = _engine("minimal", 205, requests, tpot_s)
    ends_s = _ends_s(world)
    assert ends_s == pytest.approx([6e-3, 12.02e-3, 17.0601e-3, 22.1004e-3, 27.1207e-3, 32.1411e-3, 38.6711e-3,
                                    43.6914e-3])  # fmt: skip
    jobs = world.jobs
    assert jobs["first_token_s"] == pytest.approx([6e-3, 12.02e-3, 38.6711e-3])
    assert jobs["last_token_s"] == pytest.approx([32.1411e-3, 43.6914e-3, 38.6711e-3])
    assert jobs["num_preemptions"].tolist() == [0, 1, 0]
    assert jobs["prefill_tokens"].tolist() == [100, 103, 50]
    assert jobs["outcome"].tolist() == [ATTAINED, outcome, ATTAINED]


def test_the_router_believes_what_a_preemption_costs():
    """I4, I17: as above: from 22.1004 ms on one decodes over 103 tokens, to 27.1207, and 100 + 3 are queued."""
    world = _engine("minimal", 205, [(0.0, 100, 6, 0.02), (0.001, 100, 5, 0.02)], 0.006)
    assert _run_until(world, 0.0221) == PAUSED
    believed, requests = world.fleet.instances, world.fleet.requests
    assert (believed["num_decodes"][0], believed["kv_tokens"][0], believed["queued_tokens"][0]) == (2, 203, 0)
    assert _run_until(world, 0.0222) == PAUSED
    assert (believed["num_decodes"][0], believed["decode_kv_tokens"][0], believed["kv_tokens"][0]) == (1, 103, 103)
    assert believed["iteration_end_s"][0] == pytest.approx(0.0271207)
    assert (believed["num_queued"][0], believed["queued_tokens"][0]) == (1, 103)
    assert (requests["stage"][1], requests["emitted_tokens"][1], requests["remaining_tokens"][1]) == (QUEUED, 3, 103)
    assert world.engines["kv_tokens"][0] == 103


def test_the_victim_is_who_arrived_last_not_who_began_to_decode_last():
    """I17: iterations of 100 tokens; the second's 50, due first, overtake the rest of the first's 150.

    1. 0 to 6 ms: 100 of the first's. 2. to 12 ms: the second's 50 and the first's other 50; both decode, the second
       before the first. 3. to 17.04: 5 + 0.02 + 0.02. KV 202 of 202.
    4. to 22.0651, 5. to 27.0903: the first alone, 5 + 0.01 + 0.0151, then 0.0152; with 4 tokens it has ended.
    6. to 32.6103: the second's 50 and 2 tokens, 5 + 0.52, bring its 3rd. 7. to 37.6255: its 4th, 5 + 0.01 + 0.0052.
    """
    requests = [(0.0, 150, 4, 1.0), (0.001, 50, 4, 0.1)]
    world = _engine("static-tiers", 202, requests, 0.02, chunk_limit_tokens=100)
    ends_s = _ends_s(world)
    assert ends_s == pytest.approx([6e-3, 12e-3, 17.04e-3, 22.0651e-3, 27.0903e-3, 32.6103e-3, 37.6255e-3])
    assert world.jobs["first_token_s"] == pytest.approx([12e-3, 12e-3])
    assert world.jobs["last_token_s"] == pytest.approx([27.0903e-3, 37.6255e-3])
    assert world.jobs["num_preemptions"].tolist() == [0, 1]


@pytest.mark.parametrize(("capacity", "waits"), [(206, False), (203, True)])
def test_kv_that_arrives_waits_for_room(capacity, waits):
    """I3, I17: a decode and a prefill instance; a transfer takes 1 ms, prompts of 100 and 100 tokens, 5 and 3 out.

    The first: prompt to 6 ms, KV there at 7; its tokens at 12.02, 17.0401, 22.0603 and 27.0806 ms (5 + 0.01 and its
    KV, 0.01 and 0.0001 more each time). The second: prompt to 12 ms, KV there at 13, when the first's holds 101
    tokens and one comes: 202 with its 100, and the next iteration brings two. With room for 206 it decodes from 17.0401
    on, 5 + 0.02 + 0.0202 to 22.0803 and 5 + 0.02 + 0.0204 to 27.1207; the first ends, too. With 203 it waits where it
    came from until 27.0806 ms, then decodes alone, 5 + 0.01 + 0.01, to 32.1006 and 37.1207.
    """
    world = _engine(
        "minimal", capacity, [(0.0, 100, 5, 0.1), (0.001, 100, 3, 0.1)], 0.02, num_instances=2, mode="pd",
        num_prefill_only=1, num_decode_only=1, transfer_s=0.001, transfer_gb_per_s=1e6,
    )  # fmt: skip
    assert _run_until(world, 0.0135) == PAUSED
    assert world.engines["kv_tokens"].tolist() == ([101, 100] if waits else [201, 0])
    assert world.fleet.instances["kv_tokens"].tolist() == ([101, 100] if waits else [200, 0])  # the next brings a token
    assert _run_until(world, np.inf) == FINISHED
    ends_s = (27.0806e-3, 37.1207e-3) if waits else (27.1207e-3, 27.1207e-3)
    assert world.jobs["last_token_s"] == pytest.approx(ends_s)
    assert world.jobs["num_preemptions"].tolist() == [0, 0]
