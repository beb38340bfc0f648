"""From a model's configuration to what decides about it: profile, tiers and the belief of an empty fleet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from polyslo.core.fluid import LengthMoments
from polyslo.core.profile import Profile
from polyslo.core.state import DECODE_ONLY, EITHER, PREFILL_ONLY, Fleet
from polyslo.gateway.config.models import DECODE, DISAGGREGATED, PREFILL, ModelConfig
from polyslo.gateway.live_policy import live_policy
from polyslo.profiles.library import load_profile
from polyslo.sim.fleet import FleetConfig, PolicySpec, build_fleet

ROLES = {None: EITHER, PREFILL: PREFILL_ONLY, DECODE: DECODE_ONLY}
TYPICAL = LengthMoments.of(np.array([1000]), np.array([200]))  # for fixed partitions, before anything was seen


def live_fleet(model: ModelConfig, tiers_s: Sequence[float], num_records: int) -> tuple[Fleet, PolicySpec]:
    """Return the belief of a model's instances, all idle, and its policy. Raises `ConfigError`.

    Engines that are not told SLOs keep a constant chunk and serve prompts first come first served; then the policy
    does without dynamic chunking, and what is believed of their queues follows suit.
    """
    spec = live_policy(model, live_profile(model), tiers_s)
    config = live_config(model)
    tpots_s = np.asarray(tiers_s, dtype=np.float64)
    shares = np.full(len(tpots_s), 1.0 / len(tpots_s))
    fleet = build_fleet(
        config, spec, live_profile(model), tpots_s, shares, TYPICAL, num_records, model.num_slots, _roles(model)
    )
    if not model.dynamic_chunking:
        fleet.settings["by_deadline"] = 0
    fleet.num_actions[0] = 0
    return fleet, spec


def live_config(model: ModelConfig) -> FleetConfig:
    """Return what a model's fleet is."""
    return FleetConfig(
        num_instances=len(_roles(model)),  # at first
        mode=model.mode,
        first_from_decode=model.mode == DISAGGREGATED,  # as with vLLM's connectors
        transfer_s=model.transfer_ms / 1e3,
        transfer_gb_per_s=model.transfer_gb_per_s,
        num_prefill_only=int((_roles(model) == PREFILL_ONLY).sum()),
        num_decode_only=int((_roles(model) == DECODE_ONLY).sum()),
        max_residents=model.max_residents,
        chunk_limit_tokens=model.chunk_limit_tokens,
        kv_capacity_tokens=model.kv_capacity_tokens,
        relegate=model.relegate,
        refuse=model.refuse,
        spare_ratio=model.spare_ratio,
        margin_ratio=model.margin_ratio,
    )


def _roles(model: ModelConfig) -> npt.NDArray[np.int64]:
    """Return what each endpoint may do; a fleet has at least one instance, or two where they prefill apart."""
    roles = [ROLES[endpoint.role] for endpoint in model.endpoints]
    least = 2 if model.mode == DISAGGREGATED else 1
    return np.array(roles + [EITHER] * (least - len(roles)), dtype=np.int64)


def live_profile(model: ModelConfig) -> Profile:
    """Return a model's iteration times, as fast as its engines are."""
    profile = load_profile(model.profile_name, host_s=model.host_ms / 1e3).profile
    return profile if model.speed == 1.0 else profile.slowed(1.0 / model.speed)
