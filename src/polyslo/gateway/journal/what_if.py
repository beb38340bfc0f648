"""What would have been under another policy? A journal's requests, simulated on the fleet that served them.

The requests are those that arrived, when they arrived, with the SLOs that were granted. Profile, fleet and engines
are as in the journal; what the simulator can't know (an engine slower than its profile, an instance that was down) is
not in it. So the policy that served is simulated too: how far it comes out from what was measured tells how much the
other numbers are worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from polyslo.gateway.journal.lived import Lived, relive
from polyslo.gateway.journal.reader import JournalReader
from polyslo.gateway.journal.replay import Replayed, replay
from polyslo.gateway.journal.requests import LiveScore, SeenRequest, live_scores
from polyslo.sim.compare import TARGETS, Progress, interpolated_goodput, run_all
from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.results import Comparison, RunResult, TierResult
from polyslo.sim.run import COOLDOWN_RATIO, WARMUP_RATIO, build_world, run_world, summarize

LIVE = "{} (live)"  # what the measured run is called beside the simulated ones


def what_if(
    journals: Sequence[JournalReader],
    policies: Sequence[str],
    *,
    dynamic_chunking: bool | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Simulate the journals' requests under each policy, and under the one that served; the live run is one of them.

    `dynamic_chunking` is whether the engines size their chunks by SLOs, None: as they did. Raises `InputError` for
    journals of several fleets, and for those with too few requests.
    """
    lived = relive(journals)
    head = lived.head
    is_dynamic = head.dynamic_chunking if dynamic_chunking is None else dynamic_chunking
    specs = [PolicySpec.parse(text) for text in dict.fromkeys((head.policy, *policies))]
    tasks = [partial(_simulate, lived, spec, head.config, is_dynamic) for spec in specs]
    runs = [_live_run(lived, journals), *run_all(tasks, progress)]
    rate_rps = lived.workload.rate_rps
    return Comparison(
        workload=lived.workload.name,
        profile=head.profile,
        mode=head.config.mode,
        num_instances=head.config.num_instances,
        tpots_ms=tuple(round(1e3 * tpot_s, 6) for tpot_s in lived.workload.tpots_s),
        rates_rps=(rate_rps,),
        policies=tuple(run.policy for run in runs),
        runs=tuple(runs),
        goodputs=tuple(interpolated_goodput(runs[1:], spec.name, at, np.nan) for spec in specs for at in TARGETS),
        notes=(*lived.notes, *_notes(lived, is_dynamic)),
    )


def fidelity(comparison: Comparison) -> str:
    """Say how far the simulation of the policy that served is from what was measured."""
    live, simulated = comparison.runs[:2]
    off_points = 100 * (simulated.attainment - live.attainment)
    return (
        f"{simulated.policy} attained {live.attainment:.4f} live and {simulated.attainment:.4f} in the simulation "
        f"({off_points:+.2f} points): other policies' numbers are as good as that."
    )


def _simulate(lived: Lived, spec: PolicySpec, config: FleetConfig, is_dynamic: bool) -> RunResult:
    """Simulate one policy, on engines as they were."""
    spec = spec if is_dynamic else _on_constant_chunk(spec, config.chunk_limit_tokens)
    world = build_world(lived.workload, lived.profile, spec, config)
    world.fleet.requests["max_tokens"] = lived.max_tokens
    if not is_dynamic:  # such engines serve prompts first come first served
        world.fleet.settings["by_deadline"] = 0
        world.clock["by_deadline"] = 0
    run_world(world, spec.place)
    return summarize(world, lived.workload, spec, config, seed=0, profile_name=lived.head.profile)


def _on_constant_chunk(spec: PolicySpec, chunk_tokens: int) -> PolicySpec:
    """Return a policy before engines with a constant chunk, which is theirs unless the policy names one."""
    chunk_tokens = spec.chunk_tokens if "chunk=" in spec.name else chunk_tokens
    without = spec.without | {"chunking"} if spec.kind.tiers else spec.without
    return replace(spec, chunk_tokens=chunk_tokens, without=without)


def _live_run(lived: Lived, journals: Sequence[JournalReader]) -> RunResult:
    """Score what was measured as simulated runs are scored: the same requests, the same window."""
    start_s, end_s = _scored_window(lived.requests)
    scored = [one for one in lived.requests if start_s <= one.arrival.arrival_s <= end_s]
    found = Replayed()
    for journal in journals:
        replay(journal, found, moments_s=(start_s, end_s))
    num_tiers = len(lived.workload.tpots_s)
    owned_s = np.full(num_tiers + 2, np.nan) if len(found.owned_s) < 2 else found.owned_s[1] - found.owned_s[0]
    *tiers, _ = live_scores(scored, lived.workload.tpots_s)
    return RunResult(
        policy=LIVE.format(lived.head.policy),
        mode=lived.head.config.mode,
        profile=lived.head.profile,
        workload=lived.workload.name,
        rate_rps=lived.workload.rate_rps,
        seed=0,
        num_instances=lived.head.config.num_instances,
        span_s=end_s - start_s,
        tiers=tuple(_tier_result(tier, float(owned_s[k])) for k, tier in enumerate(tiers)),
        instance_seconds=float(owned_s[: num_tiers + 1].sum()),
        num_iterations=0,
        num_preemptions=0,
        placements_by_rung={name: count for name, count in found.placements_by_rung.items() if count},
        refusals_by_reason={name: count for name, count in found.refusals_by_reason.items() if count},
    )


def _scored_window(requests: Sequence[SeenRequest]) -> tuple[float, float]:
    first_s, last_s = requests[0].arrival.arrival_s, requests[-1].arrival.arrival_s
    return first_s + WARMUP_RATIO * (last_s - first_s), last_s - COOLDOWN_RATIO * (last_s - first_s)


def _tier_result(score: LiveScore, owned_s: float) -> TierResult:
    """Write a score as the simulator's: what failed counts as missed, what was cancelled for nothing."""
    assert score.tpot_ms is not None
    missed = score.num_requests - score.counts["attained"] - score.counts["refused"]
    num_relegated = min(missed, score.num_relegated)
    return TierResult(
        tpot_ms=score.tpot_ms,
        num_requests=score.num_requests,
        num_attained=score.counts["attained"],
        num_missed=missed - num_relegated,
        num_relegated=num_relegated,
        num_refused=score.counts["refused"],
        num_served_late=min(num_relegated, score.num_served_late),
        ttft_p50_s=score.ttft_s(0.5),
        ttft_p99_s=score.ttft_s(0.99),
        tpot_p50_s=score.tpot_s(0.5),
        tpot_p99_s=score.tpot_s(0.99),
        instance_seconds=owned_s,
    )


def _notes(lived: Lived, is_dynamic: bool) -> list[str]:
    head = lived.head
    notes = [
        f"{LIVE.format(head.policy)} is what was measured, {head.policy} the simulation of it: compare them first.",
        "The first 20% and the last 10% of the time are not scored. Live, what clients cancelled is not scored either.",
        "In the simulation every instance is open all the time and as fast as its profile.",
    ]
    if not is_dynamic:
        notes.append(
            f"The engines keep a constant chunk of {head.config.chunk_limit_tokens:,} tokens under every policy that "
            "does not name its own (chunk=TOKENS)."
        )
    elif not head.dynamic_chunking:
        notes.append("Simulated with engines that size their chunks by SLOs, which they did not.")
    return notes
