"""Who wins, by how much, and where polyserve loses: the sentences that head a comparison.

The best baseline at a target is the one with the highest goodput there; variants of polyserve are no
baselines. All policies see the same seeds, so a lead counts only when every seed agrees on its sign;
when seeds disagree, or the lead rounds to nothing, it is a tie and is called one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from polyslo.report.curves import OURS, Point, curve, goodput_of, is_ours, optimum_of, targets_of
from polyslo.report.notation import MISSING, amount_text, goodput_text, percent_text, rate_text, share_text
from polyslo.sim.results import Comparison, GoodputResult

Outcome = Literal["win", "tie", "lose"]

TIE_RATIO = 0.005  # leads smaller than this round to 1.00x or sit beside it
BEHIND_SHARE = 0.005  # attainment this far under the best baseline is worth a sentence
USABLE_SHARE = 0.90  # costs are compared only where a policy serves at least this share


@dataclass(frozen=True, slots=True)
class Verdict:
    """Polyserve against the best baseline at one target; a side that never reached it is None."""

    target: float
    ours: GoodputResult | None
    best: GoodputResult | None
    outcome: Outcome

    @property
    def ratio(self) -> float | None:
        """Our goodput over the best baseline's; None when either never reached the target."""
        return self.ours.rate_rps / self.best.rate_rps if self.ours and self.best else None

    @property
    def bound(self) -> str:
        """What the ratio is when a goodput is a lower bound: `at least `, `at most `, or empty: it is exact."""
        if self.ours and self.ours.is_lower_bound:
            return "at least "
        return "at most " if self.best and self.best.is_lower_bound else ""

    @property
    def is_open(self) -> bool:
        """Whether both still attained the target at the highest rate that was run: nothing tells them apart."""
        return bool(self.ours and self.best and self.ours.is_lower_bound and self.best.is_lower_bound)

    @property
    def seeds_disagree(self) -> bool:
        """Whether some seeds favour us and others the baseline."""
        return len(_signs(self.ours, self.best)) > 1


def verdicts(comparison: Comparison) -> tuple[Verdict, ...]:
    """Judge polyserve at every target, strictest first; empty when it or every baseline is absent."""
    baselines = [p for p in comparison.policies if not is_ours(p)]
    if OURS not in comparison.policies or not baselines:
        return ()
    return tuple(_verdict(comparison, baselines, target) for target in targets_of(comparison))


def headline(comparison: Comparison) -> str:
    """Say in one sentence what the comparison found, losses included."""
    judged = verdicts(comparison)
    if not judged:
        return _headline_without_rival(comparison)
    strictest, *others = judged
    text = _opening(strictest)
    for verdict in others:
        joint = ", and" if verdict.outcome == strictest.outcome else ", but"
        text += joint + " " + _continuation(verdict, strictest)
    return text + "."


def optimum_sentence(comparison: Comparison) -> str | None:
    """Say what share of the fluid optimum polyserve reaches; None without an optimum or a goodput."""
    optimum = optimum_of(comparison)
    parts = [
        ("at least " if ours.is_lower_bound else "")
        + f"{percent_text(ours.rate_rps / optimum)} at {percent_text(target)} attainment"
        for target in targets_of(comparison)
        if optimum and (ours := goodput_of(comparison, OURS, target))
    ]
    if not optimum or not parts:
        return None
    return f"Of the fluid optimum ({rate_text(optimum)} requests/s) polyserve reaches {' and '.join(parts)}."


def lead_text(comparison: Comparison, policy: str, target: float) -> str:
    """Write a policy's goodput over the best of all others', `1.08x`; bounded where one is a lower bound."""
    mine = goodput_of(comparison, policy, target)
    others = [g for p in comparison.policies if p != policy and (g := goodput_of(comparison, p, target))]
    best = max(others, key=lambda g: (g.rate_rps, g.is_lower_bound), default=None)
    if mine is None or best is None or (mine.is_lower_bound and best.is_lower_bound):
        return MISSING
    bound = "≥ " if mine.is_lower_bound else "≤ " if best.is_lower_bound else ""
    return f"{bound}{mine.rate_rps / best.rate_rps:.2f}x"


def losses(comparison: Comparison) -> tuple[str, ...]:
    """List where a baseline is ahead of polyserve: goodput, attainment at a rate, cost at a rate."""
    baselines = [p for p in comparison.policies if not is_ours(p)]
    if OURS not in comparison.policies or not baselines:
        return ()
    sentences = [_goodput_loss(v) for v in verdicts(comparison) if v.outcome == "lose"]
    ours = {p.rate_rps: p for p in curve(comparison, OURS)}
    theirs = [(name, p) for name in baselines for p in curve(comparison, name) if p.rate_rps in ours]
    sentences += _attainment_losses(ours, theirs)
    sentences += _cost_losses(ours, theirs)
    return tuple(sentences)


def _verdict(comparison: Comparison, baselines: list[str], target: float) -> Verdict:
    ours = goodput_of(comparison, OURS, target)
    reached = [g for name in baselines if (g := goodput_of(comparison, name, target))]
    best = max(reached, key=lambda g: (g.rate_rps, g.is_lower_bound), default=None)
    return Verdict(target, ours, best, _outcome(ours, best))


def _outcome(ours: GoodputResult | None, best: GoodputResult | None) -> Outcome:
    if ours is None or best is None:
        return "win" if ours else "lose" if best else "tie"
    if ours.is_lower_bound and best.is_lower_bound:
        return "tie"
    ratio = ours.rate_rps / best.rate_rps
    if abs(ratio - 1) < TIE_RATIO or len(_signs(ours, best)) > 1:
        return "tie"
    return "win" if ratio > 1 else "lose"


def _signs(ours: GoodputResult | None, best: GoodputResult | None) -> set[bool]:
    """Collect who leads, seed by seed; empty when the seeds can't be paired."""
    if ours is None or best is None or len(ours.per_seed_rps) != len(best.per_seed_rps):
        return set()
    pairs = zip(ours.per_seed_rps, best.per_seed_rps, strict=True)
    return {a > b for a, b in pairs if a != b}


def _opening(verdict: Verdict) -> str:
    at = f"at {percent_text(verdict.target)} attainment"
    if verdict.ours is None:
        rest = f"; the best baseline ({verdict.best.policy}) does" if verdict.best else ", nor does a baseline"
        return f"polyserve does not reach {percent_text(verdict.target)} attainment at any rate{rest}"
    if verdict.best is None:
        rate = goodput_text(verdict.ours)
        return f"polyserve serves {rate} requests/s {at}, which no baseline reaches at any rate"
    rival = f"the best baseline ({verdict.best.policy})"
    if verdict.is_open:
        return f"neither polyserve nor {rival} falls below {percent_text(verdict.target)} attainment at any rate"
    if verdict.outcome == "tie":
        return f"polyserve and {rival} serve about the same load {at} ({_tie_reason(verdict)})"
    only = verdict.bound or ("only " if verdict.outcome == "lose" else "")
    return f"polyserve serves {only}{verdict.ratio:.2f}x the load of {rival} {at}"


def _continuation(verdict: Verdict, first: Verdict) -> str:
    at = f"at {percent_text(verdict.target)}"
    if verdict.ours is None:
        return f"never reaches {percent_text(verdict.target)}"
    if verdict.best is None:
        return f"{goodput_text(verdict.ours)} requests/s {at}, which no baseline reaches"
    same_rival = first.best is not None and first.best.policy == verdict.best.policy
    rival = "" if same_rival else f" that of {verdict.best.policy}"
    if verdict.is_open:
        them = "neither" if first.is_open else f"neither it nor {verdict.best.policy}"
        return f"{them} falls below {percent_text(verdict.target)} at any rate"
    if verdict.outcome == "tie":
        return f"about the same{f' as {verdict.best.policy}' if not same_rival else ''} {at}"
    only = verdict.bound or ("only " if verdict.outcome == "lose" else "")
    return f"{only}{verdict.ratio:.2f}x{rival} {at}"


def _tie_reason(verdict: Verdict) -> str:
    disagreement = ", and the seeds disagree on who leads" if verdict.seeds_disagree else ""
    return f"{verdict.ratio:.2f}x{disagreement}"


def _headline_without_rival(comparison: Comparison) -> str:
    for target in targets_of(comparison):
        reached = [g for p in comparison.policies if (g := goodput_of(comparison, p, target))]
        if reached:
            best = max(reached, key=lambda g: g.rate_rps)
            most = "the most load, " if len(comparison.policies) > 1 else ""
            rate = goodput_text(best)
            return f"{best.policy} serves {most}{rate} requests/s at {percent_text(target)} attainment."
    return f"No policy reached a target attainment on {comparison.workload}."


def _goodput_loss(verdict: Verdict) -> str:
    assert verdict.best is not None  # a loss has a winner
    ours = f"{goodput_text(verdict.ours)} requests/s" if verdict.ours else "no rate at all"
    best = f"{goodput_text(verdict.best)} for {verdict.best.policy}"
    return f"Goodput at {percent_text(verdict.target)} attainment: {ours} against {best}."


def _attainment_losses(ours: dict[float, Point], theirs: list[tuple[str, Point]]) -> list[str]:
    sentences = []
    for rate, our in ours.items():
        at_rate = [(name, p) for name, p in theirs if p.rate_rps == rate]
        name, best = max(at_rate, key=lambda pair: pair[1].attainment, default=(OURS, our))
        if best.attainment - our.attainment > BEHIND_SHARE:
            sentences.append(
                f"Attainment at {rate_text(rate)} requests/s: {share_text(our.attainment)} "
                f"against {share_text(best.attainment)} for {name}."
            )
    return sentences


def _cost_losses(ours: dict[float, Point], theirs: list[tuple[str, Point]]) -> list[str]:
    """Compare costs only with baselines that serve as much: a cheap policy that fails is no bargain."""
    sentences = []
    for rate, our in ours.items():
        usable = [(n, p) for n, p in theirs if p.rate_rps == rate and p.attainment >= USABLE_SHARE]
        name, best = min(usable, key=lambda pair: pair[1].cost, default=(OURS, our))
        if our.attainment >= USABLE_SHARE and our.cost > best.cost * (1 + TIE_RATIO):
            sentences.append(
                f"Cost at {rate_text(rate)} requests/s: {amount_text(our.cost)} instance-seconds per 1,000 "
                f"attained against {amount_text(best.cost)} for {name}, "
                f"which attains {share_text(best.attainment)}."
            )
    return sentences
