"""The fluid optimum: the rate that N equal instances could sustain without bursts, whole instances or waiting.

For one tier (TPOT tau) at rate `rate` and iteration length T the steady batch is `rate T E[O-1]` decodes,
`rate T E[P]` chunk tokens and `rate T E[sum of P+i]` KV tokens; the tier's rate per instance is the largest over
T <= tau where such an iteration takes at most T and the KV fits. Mixed tiers share the fleet:
`N / sum(share / rate)`; disaggregated, prefill and decode are solved apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyslo.core.profile import Profile

NUM_LENGTHS = 48  # iteration lengths tried per tier, down to a tenth of the TPOT
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
    lengths = limit_s * np.geomspace(0.1, 1.0, NUM_LENGTHS)
    return max(_rate_at_rps(profile, float(t), moments, prefill, decode) for t in lengths)


def _rate_at_rps(profile: Profile, t: float, moments: LengthMoments, prefill: bool, decode: bool) -> float:
    """Bisect for the largest rate whose steady iteration fits into `t` seconds and into memory."""

    def fits(rate: float) -> bool:
        decodes = rate * t * moments.decodes if decode else 0.0
        chunk = rate * t * moments.prompt if prefill else 0.0
        kv = rate * t * moments.kv if decode else 0.0
        whole = int(np.ceil(decodes))
        if decode and profile.iteration_s(1, 0, moments.prompt, 0.0) > t:
            return False  # not even one decode keeps this pace
        time_s = profile.iteration_s(whole, round(chunk), kv, moments.pairs_per_token)
        if whole > 0:  # between whole batches: linear
            less_s = profile.iteration_s(whole - 1, round(chunk), kv, moments.pairs_per_token)
            time_s -= (whole - decodes) * (time_s - less_s)
        return bool(time_s <= t and kv + chunk <= profile.kv_capacity_tokens)

    if not fits(1e-9):
        return 0.0
    low, high = 0.0, 1.0
    while fits(high):
        low, high = high, 2 * high
    while high - low > RATE_TOLERANCE_RATIO * high:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
