"""How much slower than its profile an instance is, and what the router makes of that.

Iterations that streams show are held against what was foreseen: the ratio of two sums that fade over `WINDOW_S` of
the instance's work. A ratio of sums, because what one iteration was wrongly believed to carry another one did. The
belief follows in steps, sooner up than down, so that noise changes little and an instance that runs as its profile
says is decided about exactly as if nothing had been learned.

A slow instance counts time by its profile, as its engine does: it is told, and believed to keep to, a shorter iteration
(`budget_s`), which takes as long as its tier allows. An instance that is faster than its profile is not believed to be:
promises are kept either way, and that the profile is wrong is shown. Source: ours.
"""

from __future__ import annotations

import math

from polyslo.compiled import compiled
from polyslo.core.scaling import note_least_slowness, set_budget
from polyslo.core.state import Fleet

WINDOW_S = 1.0  # of work that counts: half speed is found within two seconds of it
MOST_SLOWNESS = 8.0  # that is believed; slower than that is out of order, for health to find
ODD_RATIO = 8.0  # one iteration counts as at most so many times faster or slower: a pause is no slowness
LEAST_RISE_RATIO = 0.02  # an instance that is less slower than its profile than this is not slow
FALL_RATIO = 0.08  # of what is believed: a smaller fall changes nothing
MARGIN_RATIO = 0.02  # believed beyond what was learned: iterations that last 1% too long make all residents late
FORGET_S = 30.0  # without an iteration to learn from; then half of the slowness is doubted


@compiled
def add_iteration(took_s: float, foreseen_s: float, observed_s: float, nominal_s: float) -> tuple[float, float]:
    """Return the sums of observed and nominal time with one more iteration, what came before it faded."""
    took_s = min(max(took_s, foreseen_s / ODD_RATIO), foreseen_s * ODD_RATIO)
    kept = WINDOW_S / (WINDOW_S + took_s)
    return kept * observed_s + took_s, kept * nominal_s + foreseen_s


@compiled
def follow_ratio(fleet: Fleet, i: int, ratio: float) -> None:
    """Believe what was learned of an instance, where that differs enough from what is believed."""
    believed = fleet.instances[i].slowness
    if (1.0 - FALL_RATIO) * believed <= ratio <= max(believed, 1.0 + LEAST_RISE_RATIO):
        return
    wanted = min((1.0 + MARGIN_RATIO) * ratio, MOST_SLOWNESS) if ratio > 1.0 + LEAST_RISE_RATIO else 1.0
    if wanted != believed:
        believe_slowness(fleet, i, wanted)


@compiled
def believe_slowness(fleet: Fleet, i: int, slowness: float) -> None:
    """Reckon with an instance whose iterations take `slowness` times as long as its profile says."""
    instance = fleet.instances[i]
    instance.slowness = slowness
    if math.isfinite(instance.budget_s):
        set_budget(fleet, i)
    note_least_slowness(fleet)
