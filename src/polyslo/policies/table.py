"""The policies by name, and the one place where a compiled driver calls the one that was chosen.

A policy is `place(fleet, r, now_s) -> instance`, decided on belief alone; the ladder policies dispatch or pend by
themselves and answer NONE. A user's own policy has the same signature, see `docs/policies.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

from polyslo.compiled import compiled
from polyslo.core.ladder import place_or_pend
from polyslo.core.state import NONE, Fleet
from polyslo.policies.least_loaded import least_loaded
from polyslo.policies.lmetric import smallest_product
from polyslo.policies.random import anyone
from polyslo.policies.round_robin import next_in_turn
from polyslo.policies.slo_least_load import least_loaded_in_time
from polyslo.policies.static_tiers import least_loaded_of_tier

POLYSERVE, RANDOM, ROUND_ROBIN, MINIMAL, STATIC_TIERS, LMETRIC, SLO_LEAST_LOAD, EXTERNAL = range(8)


@dataclass(frozen=True, slots=True)
class PolicyKind:
    """How the fleet and its engines are set up for a policy."""

    code: int
    source: str
    tiers: bool = False  # instances belong to tiers, and keep to their TPOT (dynamic chunking)
    elastic: bool = False  # tiers own what they need; the rest is idle
    default_chunk: int = 2048  # tokens of an iteration where the chunk is constant (vLLM max_num_batched_tokens)


POLICIES: dict[str, PolicyKind] = {
    "polyserve": PolicyKind(POLYSERVE, "PolyServe, arXiv:2507.17769", tiers=True, elastic=True),
    "static-tiers": PolicyKind(STATIC_TIERS, "a fixed partition, sized by the fluid need", tiers=True),
    "slo-least-load": PolicyKind(SLO_LEAST_LOAD, "llm-d's SLO-aware routing, as published", default_chunk=512),
    "lmetric": PolicyKind(LMETRIC, "LMetric, OSDI '26: new prefill tokens x batch size"),
    "chunk": PolicyKind(MINIMAL, "PolyServe's baseline: least loaded, constant chunk", default_chunk=512),
    "minimal": PolicyKind(MINIMAL, "PolyServe's baseline: least loaded, the engine's default chunk"),
    "round-robin": PolicyKind(ROUND_ROBIN, "what a plain load balancer does"),
    "random": PolicyKind(RANDOM, "PolyServe's baseline"),
}


@compiled
def choose(policy: int, fleet: Fleet, r: int, now_s: float) -> int:
    """Return the instance for a request, or NONE when the policy dispatched or pended it by itself."""
    if policy == POLYSERVE:
        place_or_pend(fleet, r, now_s)
        return NONE
    if policy == MINIMAL:
        return least_loaded(fleet, r, now_s)
    if policy == RANDOM:
        return anyone(fleet, r, now_s)
    if policy == ROUND_ROBIN:
        return next_in_turn(fleet, r, now_s)
    if policy == LMETRIC:
        return smallest_product(fleet, r, now_s)
    if policy == SLO_LEAST_LOAD:
        return least_loaded_in_time(fleet, r, now_s)
    return least_loaded_of_tier(fleet, r, now_s)
