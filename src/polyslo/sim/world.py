"""The truth: what engines do and what became of every request. The policy never reads it.

Engines and jobs are record arrays like the core's; the core's own rules (which prompt tokens an iteration
carries, how queues are linked) run on them unchanged.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from polyslo.core.profile import Profile
from polyslo.core.state import NONE, Fleet
from polyslo.native import Native

UNFINISHED, ATTAINED, MISSED, RELEGATED_OUT, REFUSED_OUT = range(5)
OUTCOMES = ("unfinished", "attained", "missed", "relegated", "refused")

# Events, by rank at equal times: iteration ends come before transfers, and all of them before arrivals.
ITERATION_END, TRANSFER_END, READY = range(3)

# Facts that the engines' streams show to the router.
F_ITERATION_END, F_FIRST_TOKEN, F_PREFILLED, F_FINISHED, F_PREEMPTED, F_WITHDRAWN, F_RESTARTED, F_SETTLED = range(8)

ENGINE = np.dtype(
    [
        ("busy", np.int64),
        ("num_decodes", np.int64),
        ("num_queued", np.int64),
        ("num_ending", np.int64),  # queued prompts that end with the running iteration
        ("queue_head", np.int64),
        ("queue_tail", np.int64),
        ("arrived_head", np.int64),  # PD: requests whose KV has arrived, until there is room for it
        ("join_head", np.int64),  # PD: requests whose KV moved in, until the next iteration
        ("num_joined", np.int64),  # PD: requests that the running iteration began to decode
        ("prefill_only", np.int64),
        ("starting", np.int64),  # the event that ends its cold start is under way
        ("max_decodes", np.int64),
        ("iteration", np.int64),
        ("decode_kv_tokens", np.int64),
        ("kv_tokens", np.int64),
        ("kv_capacity_tokens", np.int64),
        ("chunk_limit", np.int64),
        ("budget_s", np.float64),
        ("ready_s", np.float64),
        ("slowness", np.float64),  # iteration time over the profile's: 1, more for a straggler
        ("busy_s", np.float64),
    ],
    align=True,
)

JOB = np.dtype(
    [
        ("first_due_s", np.float64),
        ("tpot_s", np.float64),
        ("first_token_s", np.float64),
        ("last_token_s", np.float64),
        ("input_tokens", np.int64),
        ("output_tokens", np.int64),
        ("prefill_tokens", np.int64),
        ("remaining_tokens", np.int64),
        ("emitted_tokens", np.int64),
        ("instance", np.int64),
        ("outcome", np.int64),
        ("late", np.int64),
        ("num_preemptions", np.int64),
        ("best_effort", np.int64),
        ("hands_over", np.int64),  # PD: its KV goes to another engine when its prompt has ended
        ("next", np.int64),
        ("previous", np.int64),
    ],
    align=True,
)

CLOCK = np.dtype(
    [
        ("now_s", np.float64),
        ("pause_s", np.float64),
        ("next_sample_s", np.float64),
        ("sample_every_s", np.float64),
        ("noise_ratio", np.float64),
        ("delay_s", np.float64),  # of telemetry
        ("random_state", np.uint64),
        ("cursor", np.int64),  # next arrival
        ("sequence", np.int64),
        ("num_events", np.int64),
        ("num_iterations", np.int64),
        ("num_preemptions", np.int64),
        ("most_decodes", np.int64),  # the largest iterations so far: whether the profile was extrapolated
        ("most_kv_tokens", np.int64),
        ("most_chunk_tokens", np.int64),
        ("most_context_tokens", np.float64),
        ("num_samples", np.int64),
        ("fact_head", np.int64),
        ("fact_tail", np.int64),
        ("window_start_s", np.float64),
        ("window_end_s", np.float64),
        ("policy", np.int64),
        ("relegate", np.int64),
        ("by_deadline", np.int64),
    ],
    align=True,
)


class World(Native):
    """One simulated run. N engines, R requests, S decodes at most an engine, K tiers."""

    fleet: Fleet  # the belief
    truth: Profile  # about iteration times
    clock: npt.NDArray[np.void]  # (1,)
    engines: npt.NDArray[np.void]  # (N,)
    jobs: npt.NDArray[np.void]  # (R,)
    arrivals_s: npt.NDArray[np.float64]  # (R,)
    slot: npt.NDArray[np.int64]  # (N, S) decoding request
    slot_finish: npt.NDArray[np.int64]  # (N, S) iteration that brings the last token
    slot_due_s: npt.NDArray[np.float64]  # (N, S) token of iteration j is due at slot_due + j * slot_tpot
    slot_tpot_s: npt.NDArray[np.float64]  # (N, S)
    event_s: npt.NDArray[np.float64]  # (E,) heap by (time, kind, sequence)
    event_sequence: npt.NDArray[np.int64]  # (E,)
    event: npt.NDArray[np.int64]  # (E, 3) kind, instance, request
    fact_s: npt.NDArray[np.float64]  # (F, 2) ring: when seen, when it happened
    fact: npt.NDArray[np.int64]  # (F, 3) kind, instance, request
    owned_at_s: npt.NDArray[np.float64]  # (K + 2, 2) instance-seconds of tiers, prefill and standby at window's ends
    sample_s: npt.NDArray[np.float64]  # (M,)
    sample_groups: npt.NDArray[np.int64]  # (M, K + 2)
    sample_pending: npt.NDArray[np.int64]  # (M, K)
    sample_group: npt.NDArray[np.int8]  # (M, N)
    sample_load: npt.NDArray[np.float32]  # (M, N) expected iteration time over TPOT

    FIRST_SLOT: ClassVar = 40
    ARRAYS: ClassVar = {
        "clock": (CLOCK, 1),
        "engines": (ENGINE, 1),
        "jobs": (JOB, 1),
        "arrivals_s": (np.float64, 1),
        "slot": (np.int64, 2),
        "slot_finish": (np.int64, 2),
        "slot_due_s": (np.float64, 2),
        "slot_tpot_s": (np.float64, 2),
        "event_s": (np.float64, 1),
        "event_sequence": (np.int64, 1),
        "event": (np.int64, 2),
        "fact_s": (np.float64, 2),
        "fact": (np.int64, 2),
        "owned_at_s": (np.float64, 2),
        "sample_s": (np.float64, 1),
        "sample_groups": (np.int64, 2),
        "sample_pending": (np.int64, 2),
        "sample_group": (np.int8, 2),
        "sample_load": (np.float32, 2),
    }
    BUNDLES: ClassVar = {"fleet": 126, "truth": 127}


def new_engines(num_instances: int, profile: Profile, max_decodes: int, chunk_limit: int) -> npt.NDArray[np.void]:
    """Allocate idle engines."""
    engines = np.zeros(num_instances, dtype=ENGINE)
    for name in ("queue_head", "queue_tail", "arrived_head", "join_head"):
        engines[name] = NONE
    engines["kv_capacity_tokens"] = profile.kv_capacity_tokens
    engines["max_decodes"] = max_decodes
    engines["chunk_limit"] = chunk_limit
    engines["budget_s"] = np.inf
    engines["slowness"] = 1.0
    return engines
