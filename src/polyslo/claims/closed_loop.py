"""A closed loop on one engine: N clients, each of which sends its next request when its last one has ended.

This is how serving benchmarks measure TTFT and TPOT "at a concurrency". The engine is the simulator's own, to the
iteration; only the arrivals are driven from here. As in `sim/loop.py`, a request that is sent because another ended
finds the next iteration already begun, and joins the one after.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyslo.compiled import compiled
from polyslo.core.profile import Profile
from polyslo.policies.table import POLICIES
from polyslo.sim.engine import end_iteration, start_iteration, submit
from polyslo.sim.events import pop_event
from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.run import build_world
from polyslo.sim.world import F_FINISHED, World
from polyslo.workload.workload import Workload


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What an engine's configuration bounds."""

    batch_tokens: int  # vLLM: max_num_batched_tokens, prompt tokens and decodes of one iteration
    batch_requests: int  # vLLM: max_num_seqs


@dataclass(frozen=True, slots=True)
class LoopResult:
    """Means over the scored requests, seconds; TPOT is a request's (last - first token) / (tokens - 1)."""

    ttft_s: float
    tpot_s: float
    num_requests: int
    num_iterations: int
    num_preemptions: int


def run_closed_loop(
    profile: Profile,
    limits: EngineLimits,
    num_clients: int,
    input_tokens: npt.ArrayLike,
    output_tokens: npt.ArrayLike,
    *,
    num_unscored: int = 0,
) -> LoopResult:
    """Serve requests of the given lengths, shape (n,) each, in their order; the first `num_unscored` are warm-up.

    All clients begin at once, and nobody sends when all n are sent. Outputs are of two tokens or more, so that each
    has a TPOT. Raises `InputError` for a request that the KV memory can't hold.
    """
    workload = _workload(np.asarray(input_tokens, dtype=np.int32), np.asarray(output_tokens, dtype=np.int32))
    assert num_clients > 0
    assert 0 <= num_unscored < len(workload)
    assert workload.output_tokens.min() >= 2
    config = FleetConfig(num_instances=1, max_residents=limits.batch_requests, relegate=False)
    policy = PolicySpec("closed loop", POLICIES["minimal"], limits.batch_tokens)
    world = build_world(workload, profile, policy, config)
    drive(world.handle, num_clients)
    jobs = world.jobs[num_unscored:]
    ttft_s = jobs["first_token_s"] - world.arrivals_s[num_unscored:]
    tpot_s = (jobs["last_token_s"] - jobs["first_token_s"]) / (jobs["output_tokens"] - 1)
    return LoopResult(
        ttft_s=float(ttft_s.mean()),
        tpot_s=float(tpot_s.mean()),
        num_requests=len(jobs),
        num_iterations=int(world.clock["num_iterations"][0]),
        num_preemptions=int(world.clock["num_preemptions"][0]),
    )


@compiled
def drive(world: World, num_clients: int) -> None:
    """Run engine 0 until all jobs have ended; `arrivals_s` becomes when each was sent."""
    clock = world.clock[0]
    _send(world, num_clients)
    while clock.num_events > 0:
        clock.now_s, _, i, _ = pop_event(world)  # nothing but ends of iterations
        end_iteration(world, i, clock.now_s)
        start_iteration(world, i, clock.now_s)
        _send(world, _count_finished(world))


@compiled
def _send(world: World, count: int) -> None:
    clock = world.clock[0]
    for _ in range(min(count, world.jobs.shape[0] - clock.cursor)):
        world.arrivals_s[clock.cursor] = clock.now_s
        clock.cursor += 1
        submit(world, 0, clock.cursor - 1, clock.now_s)


@compiled
def _count_finished(world: World) -> int:
    """Read all facts of the iteration that has just ended."""
    clock, count = world.clock[0], 0
    while clock.fact_head < clock.fact_tail:
        count += 1 if world.fact[clock.fact_head % world.fact.shape[0], 0] == F_FINISHED else 0
        clock.fact_head += 1
    return count


def _workload(input_tokens: npt.NDArray[np.int32], output_tokens: npt.NDArray[np.int32]) -> Workload:
    """Wrap lengths for `build_world`; the SLO is so wide that nothing depends on it."""
    count = len(input_tokens)
    return Workload(
        name="closed loop",
        arrival_s=np.zeros(count),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        ttft_s=np.full(count, 1e9),
        tpot_s=np.full(count, 1e6),
        tpots_s=(1e6,),
        tier=np.zeros(count, dtype=np.int32),
    )
