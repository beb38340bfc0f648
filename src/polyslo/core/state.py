"""What the router believes: the fleet, its tiers, and every request it has seen.

Plain typed arrays, so that the compiled code runs at the speed of C. Records are numpy structured arrays: in
compiled code `fleet.instances[i].num_decodes`, in Python `fleet.instances["num_decodes"]` (a vector). Belief is
filled from what was sent and what was observed (`belief.py`) and never from the simulator's truth.

Groups: the instances of tier k are group k, prefill instances (PD) are group `num_tiers`, the idle pool is
group `num_tiers + 1`. `order[g, :group_size[g]]` lists a group's instances, most loaded first: the load gradient.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from polyslo.compiled import compiled
from polyslo.core.profile import Profile
from polyslo.native import Native

NONE = -1  # the absent index, in compiled code only

# Stages of a request, in the order in which they can be passed.
NEW, PENDING, QUEUED, TRANSFERRING, DECODING, DONE, RELEGATED, REFUSED = range(8)
STAGES = ("new", "pending", "queued", "transferring", "decoding", "done", "relegated", "refused")

# Rungs of the placement ladder.
OWN, PROMOTED, SCALED_UP, TAKEN_OVER, FROM_PENDING, FALLBACK, NO_RUNG = range(7)
RUNGS = ("own", "promoted", "scaled_up", "taken_over", "from_pending", "fallback", "none")

# Reasons of refusal by an instance.
# ABSENT: room for an instance that comes later, or one that has not answered yet.
FITS, FIRST_TOKEN, SECOND_TOKEN, STEADY_STATE, MEMORY, DRAINING, UNHEALTHY, ABSENT = range(8)
REASONS = ("fits", "first_token", "second_token", "steady_state", "memory", "draining", "unhealthy", "absent")

# Output lengths: told by an oracle, learned online and conditioned on what was emitted, or the tier's mean.
KNOWN, LEARNED, MEAN = range(3)

# What an instance may be used for (PD): anything, or one side only.
EITHER, PREFILL_ONLY, DECODE_ONLY = range(3)

# What a shell must do after a decision.
DISPATCH, TRANSFER, WITHDRAW, RELEGATE, REFUSE, RETIER, START = range(7)

INSTANCE = np.dtype(
    [
        ("group", np.int64),  # tier, prefill group or idle pool
        ("rank", np.int64),  # index in order[group]
        ("closed", np.int64),  # FITS: takes new requests; else why not: DRAINING, UNHEALTHY or ABSENT
        ("role", np.int64),  # PD: EITHER, PREFILL_ONLY or DECODE_ONLY
        ("num_residents", np.int64),  # promised: decoding, queued, or on its way here
        ("num_decodes", np.int64),
        ("num_own", np.int64),  # residents of the instance's own tier
        ("num_best_effort", np.int64),  # residents that give way at once
        ("num_queued", np.int64),
        ("queue_head", np.int64),  # prefill queue, linked through the requests
        ("queue_tail", np.int64),
        ("queued_tokens", np.int64),
        ("chunk_limit", np.int64),  # batch tokens that one iteration may carry
        ("decode_kv_tokens", np.int64),
        ("kv_tokens", np.int64),  # with what was prefilled of queued prompts
        ("committed_tokens", np.int64),  # prompts and expected outputs of all residents: the load
        ("kv_capacity_tokens", np.int64),
        ("max_residents", np.int64),
        ("iteration", np.int64),  # how many iterations ended
        ("busy", np.int64),
        ("chunk", np.int64),  # prompt tokens in the running iteration
        ("budget_s", np.float64),  # longest iteration allowed, by the profile (inf: none, a constant chunk)
        ("slowness", np.float64),  # its time over the profile's, as believed: see `slowness.py`
        ("iteration_end_s", np.float64),  # expected end of the running iteration
        ("last_sent_s", np.float64),  # no prompt in its queue was sent later
        ("ready_s", np.float64),  # a cold start ends
        ("idle_since_s", np.float64),  # when it was given back to the idle pool, last
    ],
    align=True,
)

# What a walk along a prefill queue reads comes first: it then takes one or two cache lines of each request, not four.
REQUEST = np.dtype(
    [
        ("first_due_s", np.float64),
        ("prefill_due_s", np.float64),  # first_due_s; PD: early enough for the transfer and the second token
        ("predicted_first_s", np.float64),
        ("decided_s", np.float64),
        ("prefill_tokens", np.int64),  # prompt, or prompt and emitted tokens after a preemption
        ("remaining_tokens", np.int64),  # of prefill_tokens, not yet in a finished or running iteration
        ("next", np.int64),
        ("previous", np.int64),
        ("arrival_s", np.float64),
        ("tpot_s", np.float64),
        ("predicted_tpot_s", np.float64),
        ("start_iteration", np.int64),  # first token at the end of iteration start_iteration (expected or seen)
        ("finish_iteration", np.int64),  # last token, expected
        ("input_tokens", np.int64),
        ("emitted_tokens", np.int64),  # before its (last) prefill's end gave one, -1 where that end gave none
        ("max_tokens", np.int64),
        ("hinted_tokens", np.int64),  # output, as its caller expects; 0: nobody said
        ("expected_tokens", np.int64),  # output
        ("tier", np.int64),
        ("stage", np.int64),
        ("instance", np.int64),
        ("decode_instance", np.int64),  # PD: the one foreseen
        ("hands_over", np.int64),  # PD: its KV goes to a decode instance when its prefill ends
        ("rung", np.int64),
        ("reasons", np.int64),  # bit 1 << reason for each reason met on the way
        ("best_effort", np.int64),  # it has no SLO (any more), and gives way to those that have
        ("without_slo", np.int64),  # it never had one: its tier is whose pace it keeps
    ],
    align=True,
)

SETTINGS = np.dtype(
    [
        ("num_tiers", np.int64),
        ("disaggregated", np.int64),
        ("relegate", np.int64),  # hopeless requests become best-effort
        ("refuse", np.int64),  # hopeless requests are refused instead
        ("by_deadline", np.int64),  # prefill queues by deadline instead of first come first served
        ("lengths", np.int64),
        ("elastic", np.int64),  # tiers grow and shrink
        ("promote", np.int64),  # lazy promotion
        ("num_closed_idle", np.int64),  # instances of the idle pool that nobody may claim
        ("num_roles", np.int64),  # PD: instances that can do one side only
        ("without", np.int64),  # mechanisms switched off, a bit each: see `lacks`
        ("cold_start_s", np.float64),
        ("keep_warm_s", np.float64),  # how long an instance stays warm in the idle pool: it then needs no cold start
        ("standby_s", np.float64),  # instance-seconds kept warm by those that have been claimed since
        ("spare_ratio", np.float64),  # of an instance's memory and pace: with less promised it hosts best-effort work
        ("margin_ratio", np.float64),  # of the TPOT, kept free by router and engine alike
        ("transfer_s", np.float64),  # KV transfer: fixed part
        ("transfer_s_per_token", np.float64),
        ("first_from_decode", np.int64),  # PD: the decode side gives the first token, as vLLM's; else the prefill side
        ("prefill_budget_s", np.float64),  # PD: longest iteration of a prefill instance
        ("least_slowness", np.float64),  # of the instances that take requests
        ("chunk_limit", np.int64),
        ("random_state", np.uint64),
    ],
    align=True,
)

# Mechanisms that the ladder can do without, so that what each is worth can be measured.
GRADIENT, SPREADING, LAZINESS, CHUNKING, PREDICTION, WAIT, MEMORY_TEST = range(7)


class Fleet(Native):
    """All that the policy knows. N instances, K tiers, R requests, S residents at most an instance."""

    settings: npt.NDArray[np.void]  # (1,)
    tpots_s: npt.NDArray[np.float64]  # (K,) rising
    instances: npt.NDArray[np.void]  # (N,)
    requests: npt.NDArray[np.void]  # (R,)
    order: npt.NDArray[np.int64]  # (K + 2, N)
    group_size: npt.NDArray[np.int64]  # (K + 2,)
    resident_finish: npt.NDArray[np.int64]  # (N, S) iteration of the last token, rising
    resident_base: npt.NDArray[np.int64]  # (N, S) KV tokens at iteration j are base + j
    resident: npt.NDArray[np.int64]  # (N, S) request
    base_from: npt.NDArray[np.int64]  # (N, S) sum of `resident_base` from a resident on
    peak_from: npt.NDArray[np.int64]  # (N, S) largest KV tokens at its end or a later one's
    peak_until: npt.NDArray[np.int64]  # (N, S) at its end or an earlier one's, with the newcomer's token an iteration
    is_foreseen: npt.NDArray[np.int64]  # (N,) whether the last three are those of the present residents
    pending: npt.NDArray[np.int64]  # (K + 1, pending capacity) heaps by deadline; the last is best-effort
    pending_size: npt.NDArray[np.int64]  # (K + 1,)
    length_weight: npt.NDArray[np.float64]  # (K, LENGTH_BINS) finished requests by output length
    length_tokens: npt.NDArray[np.float64]  # (K, LENGTH_BINS) their tokens
    actions: npt.NDArray[np.int64]  # (capacity, 3) kind, request, instance
    num_actions: npt.NDArray[np.int64]  # (1,)
    group_owned_s: npt.NDArray[np.float64]  # (K + 2,) instance-seconds up to group_since_s
    group_since_s: npt.NDArray[np.float64]  # (K + 2,)
    turn: npt.NDArray[np.int64]  # (K + 2,) round robin: last instance used in a group
    counters: npt.NDArray[np.int64]  # (2, 8) placements by rung, refusals by reason
    profile: Profile

    FIRST_SLOT: ClassVar = 8
    ARRAYS: ClassVar = {
        "settings": (SETTINGS, 1),
        "tpots_s": (np.float64, 1),
        "instances": (INSTANCE, 1),
        "requests": (REQUEST, 1),
        "order": (np.int64, 2),
        "group_size": (np.int64, 1),
        "resident_finish": (np.int64, 2),
        "resident_base": (np.int64, 2),
        "resident": (np.int64, 2),
        "base_from": (np.int64, 2),
        "peak_from": (np.int64, 2),
        "peak_until": (np.int64, 2),
        "is_foreseen": (np.int64, 1),
        "pending": (np.int64, 2),
        "pending_size": (np.int64, 1),
        "length_weight": (np.float64, 2),
        "length_tokens": (np.float64, 2),
        "actions": (np.int64, 2),
        "num_actions": (np.int64, 1),
        "group_owned_s": (np.float64, 1),
        "group_since_s": (np.float64, 1),
        "turn": (np.int64, 1),
        "counters": (np.int64, 2),
    }
    BUNDLES: ClassVar = {"profile": 125}


LENGTH_BINS = 72  # four an octave, up to 2**18 tokens


def new_fleet(
    profile: Profile,
    *,
    num_instances: int,
    tpots_s: npt.ArrayLike,
    num_requests: int,
    max_residents: int = 1024,
    chunk_limit: int = 8192,
    num_pending: int | None = None,
) -> Fleet:
    """Allocate a fleet with every instance open, empty and in the idle pool."""
    tpots = np.asarray(tpots_s, dtype=np.float64)
    num_groups = len(tpots) + 2
    instances = np.zeros(num_instances, dtype=INSTANCE)
    instances["group"] = num_groups - 1
    instances["rank"] = np.arange(num_instances)
    instances["queue_head"] = instances["queue_tail"] = NONE
    instances["chunk_limit"] = chunk_limit
    instances["budget_s"] = np.inf
    instances["slowness"] = 1.0
    instances["kv_capacity_tokens"] = profile.kv_capacity_tokens
    instances["max_residents"] = max_residents
    order = np.zeros((num_groups, num_instances), dtype=np.int64)
    order[-1] = np.arange(num_instances)
    group_size = np.zeros(num_groups, dtype=np.int64)
    group_size[-1] = num_instances
    settings = np.zeros(1, dtype=SETTINGS)
    settings["num_tiers"] = len(tpots)
    settings["chunk_limit"] = chunk_limit
    settings["random_state"] = 1
    settings["least_slowness"] = 1.0
    shape = (num_instances, max_residents)
    return Fleet(
        settings=settings,
        tpots_s=tpots,
        instances=instances,
        requests=new_requests(num_requests),
        order=order,
        group_size=group_size,
        resident_finish=np.zeros(shape, dtype=np.int64),
        resident_base=np.zeros(shape, dtype=np.int64),
        resident=np.zeros(shape, dtype=np.int64),
        base_from=np.zeros(shape, dtype=np.int64),
        peak_from=np.zeros(shape, dtype=np.int64),
        peak_until=np.zeros(shape, dtype=np.int64),
        is_foreseen=np.zeros(num_instances, dtype=np.int64),
        pending=np.zeros((len(tpots) + 1, num_pending or num_requests), dtype=np.int64),
        pending_size=np.zeros(len(tpots) + 1, dtype=np.int64),
        length_weight=np.zeros((len(tpots), LENGTH_BINS)),
        length_tokens=np.zeros((len(tpots), LENGTH_BINS)),
        actions=np.zeros((4096 + 4 * num_instances + 2 * (num_pending or num_requests), 3), dtype=np.int64),
        num_actions=np.zeros(1, dtype=np.int64),
        group_owned_s=np.zeros(num_groups),
        group_since_s=np.zeros(num_groups),
        turn=np.full(num_groups, NONE, dtype=np.int64),
        counters=np.zeros((2, 8), dtype=np.int64),
        profile=profile,
    )


def new_requests(num_requests: int) -> npt.NDArray[np.void]:
    """Allocate requests that have not arrived."""
    requests = np.zeros(num_requests, dtype=REQUEST)
    for name in ("instance", "decode_instance", "next", "previous"):
        requests[name] = NONE
    requests["rung"] = NO_RUNG
    return requests


@compiled
def lacks(fleet: Fleet, mechanism: int) -> bool:
    """Tell whether a mechanism is switched off."""
    return fleet.settings[0].without >> mechanism & 1 == 1


@compiled
def act(fleet: Fleet, kind: int, r: int, i: int) -> None:
    """Tell the shell to do something; it empties the list after each call into the core."""
    n = fleet.num_actions[0]
    fleet.actions[n, 0] = kind
    fleet.actions[n, 1] = r
    fleet.actions[n, 2] = i
    fleet.num_actions[0] = n + 1


@compiled
def prefill_group(fleet: Fleet) -> int:
    """Return the group of the prefill instances."""
    return fleet.tpots_s.shape[0]


@compiled
def best_effort_queue(fleet: Fleet) -> int:
    """Return the pending queue of the relegated requests."""
    return fleet.tpots_s.shape[0]


@compiled
def idle_group(fleet: Fleet) -> int:
    """Return the group of the idle pool."""
    return fleet.tpots_s.shape[0] + 1


@compiled
def num_idle(fleet: Fleet) -> int:
    """Return how many instances of the idle pool may be claimed."""
    return fleet.group_size[idle_group(fleet)] - fleet.settings[0].num_closed_idle


@compiled
def num_claimable(fleet: Fleet, group: int) -> int:
    """Return how many instances of the idle pool a group may claim: those whose role fits it."""
    if fleet.settings[0].num_roles == 0:
        return num_idle(fleet)
    count, pool = 0, idle_group(fleet)
    for rank in range(fleet.group_size[pool]):
        i = fleet.order[pool, rank]
        if fleet.instances[i].closed == FITS and may_join(fleet, i, group):
            count += 1
    return count


@compiled
def may_join(fleet: Fleet, i: int, group: int) -> bool:
    """Tell whether an instance's role fits a group."""
    other_side = DECODE_ONLY if group == prefill_group(fleet) else PREFILL_ONLY
    return fleet.instances[i].role != other_side
