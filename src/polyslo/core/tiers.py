"""Which TPOTs the tiers keep, when requests ask for many different ones.

A tier is a bin of TPOTs and keeps the smallest in it, so every request is safe in the loosest tier that is not
looser than itself; the fleet pays for serving it faster than asked. Few tiers waste pace, many waste instances:
`learn_tiers` finds the bins with the smallest fluid need by dynamic programming, and how many of them there should
be. `TierLearner` does the same for a stream of requests. The binning is ours; PolyServe has its tiers given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from polyslo.errors import ConfigError, InputError

MAX_DISTINCT = 256  # TPOTs that bins may begin at; more are first put into as many groups of equal weight
MAX_TIERS = 16  # tried when the number of tiers is to be chosen
# A tier owns whole instances and its least loaded one is on average half used: without lazy promotion that is lost
# (docs/tiers.md measures 0.4 a tier). With it, guests from looser tiers fill it and no loss was measured up to 8
# tiers; what is left is the price that keeps out tiers that save next to nothing.
LOST_ALONE, LOST_WITH_PROMOTION = 0.5, 0.02  # instances a tier
EQUAL_RATIO = 1e-9  # needs that differ by less are the same: fewer tiers then

BINS_AN_OCTAVE = 16
SHORTEST_TPOT_S, OCTAVES = 1e-3, 14  # 1 ms to 16 s; what is outside counts in the end bins
LEAST_REQUESTS = 100.0  # seen, faded ones as fractions, before tiers are proposed
FORGOTTEN = 0.01  # requests: what a bin holds when it is as good as empty

Need = Callable[[float], float]  # TPOT in seconds -> instances per request per second, not rising


@dataclass(frozen=True, slots=True)
class LearnedTiers:
    """Tier TPOTs in seconds, ascending, and the fluid need in instances per request per second."""

    tpots_s: tuple[float, ...]
    need: float  # every request at its tier's TPOT
    ideal_need: float  # every request at its own TPOT: no number of tiers needs less


def learn_tiers(
    tpots_s: npt.ArrayLike,
    need_of: Need,
    *,
    num_tiers: int | None = None,
    num_instances: float | None = None,
    other_need: float = 0.0,
    lost_instances: float = LOST_WITH_PROMOTION,
    weights: npt.ArrayLike | None = None,
) -> LearnedTiers:
    """Return the tiers that need the fewest instances for requests that ask for `tpots_s`, shape (n,) in seconds.

    At most `num_tiers`; or, with None, as many as let `num_instances` serve the highest rate when each tier loses
    `lost_instances`: (instances - tiers * lost) / (need + `other_need`). `other_need` is what tiers don't change
    (the prefill side of PD), `weights` (n,) are shares of the requests, equal without. Deterministic; O(K * D^2)
    for K tiers and D <= `MAX_DISTINCT` different TPOTs. Raises `InputError` where a TPOT has no finite need.
    """
    if num_tiers is None and num_instances is None:
        raise ValueError("learn_tiers needs num_tiers, or num_instances to choose their number by")
    distinct_s, shares = _distinct(tpots_s, weights)
    needs = _needs(distinct_s, need_of)
    most = min(len(distinct_s), MAX_TIERS if num_tiers is None else num_tiers)
    totals, last_starts = _best_bins(shares, needs, most)
    cost = totals
    if num_tiers is None:
        assert num_instances is not None
        cost = (totals + other_need) / served_share(np.arange(1, most + 1), num_instances, lost_instances)
    count = 1 + int(np.flatnonzero(cost <= cost.min() * (1 + EQUAL_RATIO))[0])
    starts = _starts(last_starts, count)
    return LearnedTiers(tuple(distinct_s[starts].tolist()), float(totals[count - 1]), float(shares @ needs))


def served_share(num_tiers: npt.ArrayLike, num_instances: float, lost_instances: float) -> npt.NDArray[np.float64]:
    """Return the share of a fleet that is left when every tier loses `lost_instances`; hardly anything if none is."""
    return np.asarray(np.maximum(1.0 - lost_instances * np.asarray(num_tiers) / num_instances, 1e-6))


def tier_of(tpots_s: npt.ArrayLike, tier_tpots_s: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """Return the loosest tier that is not looser than each of `tpots_s`; both in seconds, tiers ascending.

    Raises `ConfigError` for a TPOT below the tightest tier's.
    """
    asked_s, tiers_s = np.asarray(tpots_s, np.float64), np.asarray(tier_tpots_s, np.float64)
    if asked_s.size and asked_s.min() < tiers_s[0]:
        raise ConfigError(
            f"a request asks for a TPOT of {asked_s.min() * 1e3:g} ms, the tightest tier keeps "
            f"{tiers_s[0] * 1e3:g} ms; add a tier of {asked_s.min() * 1e3:g} ms or less"
        )
    return np.asarray(np.searchsorted(tiers_s, asked_s, side="right") - 1, np.int32)


def need_of_tiers(
    tpots_s: npt.ArrayLike, weights: npt.ArrayLike, tier_tpots_s: npt.ArrayLike, need_of: Need
) -> tuple[float, int]:
    """Return (instances per request per second with these tiers, how many of the tiers are used)."""
    shares = np.asarray(weights, np.float64)
    tiers_s = np.asarray(tier_tpots_s, np.float64)
    held = np.bincount(tier_of(tpots_s, tiers_s), shares / shares.sum(), len(tiers_s))
    used = np.flatnonzero(held)
    return float(held[used] @ _needs(tiers_s[used], need_of)), len(used)


class TierLearner:
    """Learns tiers from the TPOTs that requests ask for as they come; old requests fade.

    Time is an argument and must not run backwards. Between proposals the caller keeps its tiers.
    """

    def __init__(
        self,
        need_of: Need,
        *,
        num_instances: float,
        num_tiers: int | None = None,
        other_need: float = 0.0,
        lost_instances: float = LOST_WITH_PROMOTION,
        half_life_s: float = 600.0,
        least_gain_ratio: float = 0.05,
    ) -> None:
        """Propose tiers that serve at least `least_gain_ratio` more; the rest as for `learn_tiers`."""
        self.num_instances = num_instances
        self.num_tiers = num_tiers
        self.other_need = other_need
        self.lost_instances = lost_instances
        self.half_life_s = half_life_s
        self.least_gain_ratio = least_gain_ratio
        self._need_of: Need = lru_cache(4096)(need_of)
        self._weight = np.zeros(BINS_AN_OCTAVE * OCTAVES)  # requests of each bin, faded
        self._least_s = np.full(BINS_AN_OCTAVE * OCTAVES, np.inf)  # smallest TPOT seen in it: a tier may begin here
        self._faded_at_s = 0.0

    def see(self, tpot_s: float, now_s: float) -> None:
        """Count a request that asks for `tpot_s` > 0."""
        self._fade(now_s)
        octave = np.log2(tpot_s / SHORTEST_TPOT_S)
        k = int(np.clip(BINS_AN_OCTAVE * octave, 0, len(self._weight) - 1))
        self._weight[k] += 1.0
        self._least_s[k] = min(self._least_s[k], tpot_s)

    def propose(self, tier_tpots_s: Sequence[float], now_s: float) -> LearnedTiers | None:
        """Return better tiers than the present ones, or None.

        None with fewer than `LEAST_REQUESTS`, and where the fleet would gain less than `least_gain_ratio`. Tiers
        that leave out what requests ask for (or no tiers at all) are always worse.
        """
        self._fade(now_s)
        seen = self._weight > 0
        asked_s, weight = self._least_s[seen], self._weight[seen]
        if weight.sum() < LEAST_REQUESTS:
            return None
        learned = learn_tiers(
            asked_s,
            self._need_of,
            num_tiers=self.num_tiers,
            num_instances=self.num_instances,
            other_need=self.other_need,
            lost_instances=self.lost_instances,
            weights=weight,
        )
        if not tier_tpots_s or asked_s.min() < tier_tpots_s[0]:
            return learned
        present = self._cost(*need_of_tiers(asked_s, weight, tier_tpots_s, self._need_of))
        gain_ratio = present / self._cost(learned.need, len(learned.tpots_s)) - 1.0
        return learned if gain_ratio >= self.least_gain_ratio else None

    def _cost(self, need: float, num_tiers: int) -> float:
        return (need + self.other_need) / float(served_share(num_tiers, self.num_instances, self.lost_instances))

    def _fade(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self._faded_at_s)
        self._faded_at_s = max(now_s, self._faded_at_s)
        self._weight *= 0.5 ** (passed_s / self.half_life_s)
        forgotten = self._weight < FORGOTTEN
        self._weight[forgotten] = 0.0
        self._least_s[forgotten] = np.inf


def _distinct(
    tpots_s: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return ascending TPOTs and their shares; where there are too many, the smallest of each group of neighbours."""
    asked_s = np.asarray(tpots_s, np.float64)
    weight = np.ones(len(asked_s)) if weights is None else np.asarray(weights, np.float64)
    distinct_s, index = np.unique(asked_s[weight > 0], return_inverse=True)
    if len(distinct_s) == 0:
        raise InputError("tiers can't be learned: no request asks for a TPOT")
    shares = np.bincount(index, weight[weight > 0]) / weight.sum()
    if len(distinct_s) > MAX_DISTINCT:
        before = np.cumsum(shares) - shares
        _, first, group = np.unique((before * MAX_DISTINCT).astype(int), return_index=True, return_inverse=True)
        distinct_s, shares = distinct_s[first], np.bincount(group, shares)
    return distinct_s, shares


def _needs(tpots_s: npt.NDArray[np.float64], need_of: Need) -> npt.NDArray[np.float64]:
    """Return the need at each of the ascending TPOTs, never rising (a solver's tolerance could make it rise)."""
    needs = np.array([need_of(float(tpot_s)) for tpot_s in tpots_s])
    if not np.isfinite(needs).all():
        tpot_s = tpots_s[~np.isfinite(needs)][-1]
        raise InputError(f"tier {tpot_s * 1e3:g} ms: no instance can serve it; loosen the TPOT or change the profile")
    return np.minimum.accumulate(needs)


def _best_bins(
    shares: npt.NDArray[np.float64], needs: npt.NDArray[np.float64], most: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return the smallest total need with 1 to `most` bins, (most,), and where the last bin of each prefix begins.

    `last_starts[k, i]`: with k + 1 bins over the first i TPOTs. A bin [j, i) needs its share at TPOT j.
    """
    count = len(shares)
    before = np.concatenate([[0.0], np.cumsum(shares)])  # [D + 1] share of the first i TPOTs
    bin_need = (before[None, :] - before[:-1, None]) * needs[:, None]  # [D, D + 1]
    bin_need[np.arange(count)[:, None] >= np.arange(count + 1)[None, :]] = np.inf  # a bin holds something
    last_starts = np.zeros((most, count + 1), np.int64)
    best, totals = bin_need[0], [bin_need[0, count]]
    for k in range(1, most):
        through = best[:-1, None] + bin_need  # [j, i]: k bins before j, one bin from j to i
        last_starts[k] = np.argmin(through, axis=0)
        best = through.min(axis=0)
        totals.append(best[count])
    return np.array(totals), last_starts


def _starts(last_starts: npt.NDArray[np.int64], num_bins: int) -> list[int]:
    """Follow the last bins back to the first."""
    starts, end = [], last_starts.shape[1] - 1
    for k in range(num_bins - 1, -1, -1):
        end = int(last_starts[k, end])
        starts.append(end)
    return starts[::-1]
