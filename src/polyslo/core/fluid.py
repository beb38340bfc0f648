"""The fluid optimum: the rate that N equal instances could sustain without bursts, whole instances or waiting.

For one tier (TPOT tau) at rate `rate` and iteration length T the steady batch is `rate T E[O-1]` decodes,
`rate T E[P]` chunk tokens and `rate T E[sum of P+i]` KV tokens; the tier's rate per instance is the largest over
T <= tau where such an iteration takes at most T and the KV fits. Mixed tiers share the fleet:
`N / sum(share / rate)`; disaggregated, prefill and decode are solved apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyslo.compiled import compiled
from polyslo.core.profile import Profile, iteration_s

# Iteration lengths tried, of the TPOT: below a tenth of it they pay only where KV memory is scarce.
LENGTH_RATIOS = np.concatenate((np.geomspace(0.01, 0.1, 48)[:-1], np.geomspace(0.1, 1.0, 48)))
RATE_TOLERANCE_RATIO = 1e-3


@dataclass(frozen=True, slots=True)
class LengthMoments:
    """What the optimum needs of a workload's lengths, all in tokens per request."""

    prompt: float  # E[P]
    decodes: float  # E[O - 1]
    kv: float  # E[sum over i = 1..O-1 of (P + i)]
    pairs_per_token: float  # E[P * P / 2] / E[P]

    @classmethod
    def of(cls, input_tokens: npt.ArrayLike, output_tokens: npt.ArrayLike) -> LengthMoments:
        """Return the moments of the given lengths, arrays of shape (n,)."""
        p = np.asarray(input_tokens, dtype=np.float64)
        o = np.asarray(output_tokens, dtype=np.float64)
        return cls(
            prompt=float(p.mean()),
            decodes=float((o - 1).mean()),
            kv=float(((o - 1) * p + o * (o - 1) / 2).mean()),
            pairs_per_token=float((p * p / 2).mean() / p.mean()),
        )


def colocated_rate_rps(profile: Profile, tpot_s: float, moments: LengthMoments) -> float:
    """Return one instance's largest sustained rate of a tier, prefill and decode on it; 0 if none."""
    return _largest_rate_rps(profile, tpot_s, moments, prefill=True, decode=True)


def decode_rate_rps(profile: Profile, tpot_s: float, moments: LengthMoments) -> float:
    """Return one decode instance's largest sustained rate of a tier; 0 if none."""
    return _largest_rate_rps(profile, tpot_s, moments, prefill=False, decode=True)


def prefill_rate_rps(profile: Profile, moments: LengthMoments, iteration_limit_s: float = 1.0) -> float:
    """Return one prefill instance's largest sustained rate."""
    return _largest_rate_rps(profile, iteration_limit_s, moments, prefill=True, decode=False)


def instance_need(
    profile: Profile, tpots_s: npt.ArrayLike, shares: npt.ArrayLike, moments: LengthMoments, *, mode: str
) -> npt.NDArray[np.float64]:
    """Return instances needed per request per second: one number a tier, then the prefill side's (0 in CO)."""
    rate = colocated_rate_rps if mode == "co" else decode_rate_rps
    need = [
        share / r if (r := rate(profile, float(tpot), moments)) > 0 else np.inf
        for tpot, share in zip(np.asarray(tpots_s), np.asarray(shares), strict=True)
    ]
    return np.array([*need, 0.0 if mode == "co" else 1.0 / prefill_rate_rps(profile, moments)])


def optimum_rps(
    profile: Profile,
    tpots_s: npt.ArrayLike,
    shares: npt.ArrayLike,
    moments: LengthMoments,
    *,
    num_instances: int,
    mode: str,
) -> float:
    """Return the fluid optimum of a fleet, requests per second; 0 when a tier can't be served at all."""
    return float(num_instances / instance_need(profile, tpots_s, shares, moments, mode=mode).sum())


def _largest_rate_rps(
    profile: Profile, limit_s: float, moments: LengthMoments, *, prefill: bool, decode: bool
) -> float:
    return float(
        largest_rate_rps(
            profile.handle,
            limit_s * LENGTH_RATIOS,
            moments.prompt,
            moments.prompt if prefill else 0.0,
            moments.decodes if decode else 0.0,
            moments.kv if decode else 0.0,
            moments.pairs_per_token,
        )
    )


@compiled
def largest_rate_rps(
    profile: Profile,
    lengths_s: npt.NDArray[np.float64],
    context: float,
    prompt: float,
    decodes: float,
    kv: float,
    pairs_per_token: float,
) -> float:
    """Bisect for the largest rate whose steady iteration fits into its length and into memory, over all lengths.

    `prompt`, `decodes` and `kv` are what a request brings to an instance, in tokens; `context` is what one decode
    alone has before it.
    """
    best = 0.0
    for t in lengths_s:
        if decodes > 0.0 and iteration_s(profile, 1, 0, context, 0.0) > t:
            continue  # not even one decode keeps this pace
        if not _is_carried(profile, t, 1e-9, prompt, decodes, kv, pairs_per_token):
            continue
        low, high = 0.0, 1.0
        while _is_carried(profile, t, high, prompt, decodes, kv, pairs_per_token):
            low, high = high, 2.0 * high
        while high - low > RATE_TOLERANCE_RATIO * high:
            middle = (low + high) / 2.0
            if _is_carried(profile, t, middle, prompt, decodes, kv, pairs_per_token):
                low = middle
            else:
                high = middle
        best = max(best, low)
    return best


@compiled
def _is_carried(
    profile: Profile, t: float, rate: float, prompt: float, decodes: float, kv: float, pairs_per_token: float
) -> bool:
    """Tell whether iterations of `t` seconds carry a rate; between whole batches their time is linear."""
    batch, chunk, held = rate * t * decodes, round(rate * t * prompt), rate * t * kv
    whole = math.ceil(batch)
    time_s = iteration_s(profile, whole, chunk, held, pairs_per_token)
    if whole > 0:
        less_s = iteration_s(profile, whole - 1, chunk, held, pairs_per_token)
        time_s -= (whole - batch) * (time_s - less_s)
    return time_s <= t and held + rate * t * prompt <= profile.physics[0].kv_capacity_tokens
