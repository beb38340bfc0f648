"""Tiers learned at the start, from what the requests of earlier journals asked for.

The tiers of a running fleet don't change: what is promised to the requests under way, and which instances they share,
is made for them. So what a gateway's journal has seen decides about the tiers of the next start. `core.tiers` chooses.
Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from polyslo.core.fluid import LengthMoments, colocated_rate_rps
from polyslo.core.tiers import LearnedTiers, learn_tiers
from polyslo.errors import ConfigError, InputError
from polyslo.gateway.config.gateway import GatewayConfig
from polyslo.gateway.config.slo import TiersConfig
from polyslo.gateway.fleets import live_profile
from polyslo.gateway.journal.lived import Lived, relive
from polyslo.gateway.journal.reader import open_journals


def with_learned_tiers(config: GatewayConfig) -> GatewayConfig:
    """Return the configuration with the tiers that pay; as it is where none are to be learned.

    Raises `ConfigError` where the journals can't be used.
    """
    if config.tiers.learn is None:
        return config
    files = config.tiers.learn_from or ()
    try:
        learned = choose_tiers(config, relive(open_journals(files)))
    except InputError as error:
        raise ConfigError(f"tiers.learn_from: {error}") from error
    tpots_ms = tuple(round(1e3 * tpot_s, 6) for tpot_s in learned.tpots_s)
    return replace(config, tiers=TiersConfig(tpots_ms=tpots_ms))


def choose_tiers(config: GatewayConfig, lived: Lived) -> LearnedTiers:
    """Return the tiers for the TPOTs that requests asked for; every class has one that is not looser than it."""
    model, load = config.models[0], lived.workload
    moments = LengthMoments.of(load.input_tokens, load.output_tokens)
    profile = live_profile(model)

    def need_of(tpot_s: float) -> float:
        rate_rps = colocated_rate_rps(profile, tpot_s, moments)
        return 1.0 / rate_rps if rate_rps > 0 else np.inf

    learn = config.tiers.learn
    return learn_tiers(
        [*load.tpot_s.tolist(), *_class_tpots_s(config)],
        need_of,
        num_tiers=learn if isinstance(learn, int) else None,
        num_instances=max(1, len(model.endpoints) or lived.head.num_instances),
    )


def _class_tpots_s(config: GatewayConfig) -> Sequence[float]:
    return [entry.tpot_ms / 1e3 for entry in (*config.promises, config.loosest_of(config.promises))]
