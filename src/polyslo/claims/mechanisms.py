"""What polyserve can do without, one mechanism at a time, and what it then does instead."""

from __future__ import annotations

from polyslo.claims.cases import OURS
from polyslo.sim.fleet import MECHANISMS

FIXED_CHUNK = 512  # tokens, without dynamic chunking

INSTEAD = {
    "binning": "every request belongs to the tightest tier",
    "gradient": "the least loaded instance that fits comes first",
    "spreading": "the most loaded instance that fits comes first, also when the idle pool is low (the paper's rule)",
    "promotion": "tighter tiers are never asked",
    "laziness": "eager promotion: tighter tiers are asked before the own one",
    "chunking": f"a constant chunk of {FIXED_CHUNK} tokens",
    "prediction": "the first token is foreseen with the chunk that fits now, not with those of the iterations to come",
    "wait": "the running iteration is taken for over, and the second token is not tested",
    "memory": "the largest KV is not tested against the capacity",
    "elasticity": "instances belong to tiers for good, by the fluid need",
    "relegation": "requests that can't be in time any more are served late, in the order of their deadlines",
}


def ablations() -> dict[str, str]:
    """Return the policy without each mechanism, by its name."""
    found = {name: f"{OURS}:without={name}" for name in MECHANISMS}
    found["chunking"] = f"{OURS}:chunk={FIXED_CHUNK},without=chunking"
    found["relegation"] = f"{OURS}:relegate=off"
    return {name: found[name] for name in INSTEAD}
