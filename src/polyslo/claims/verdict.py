"""Which of the claims hold: every bound against its measurement, and what a bound that is missed would have taken.

The bounds are those of the project's specification: the paper's gains (arXiv:2507.17769) as averages over the
workloads, with a least gain on each, and a share of the optimum and a cost that the paper gives no numbers for.
They are judged on the workloads with Poisson arrivals; recorded arrivals are reported beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from polyslo.claims.markdown import NBSP, listed, opening, plain
from polyslo.claims.numbers import excess_text, finite_mean, ratio_text, target_text
from polyslo.claims.results import Cell, Claims, Load
from polyslo.report.notation import amount_text, count_text, percent_cell_text, share_text

MEAN_RATIO = {"co": 1.18, "pd": 1.23}  # over the best baseline, mean over the workloads
LEAST_RATIO = 1.05  # on each of them
MEAN_SHARE, LEAST_SHARE = 0.95, 0.925  # of the fluid optimum, at the first target
MOST_COST = 1.10  # instances owned over the fluid need


@dataclass(frozen=True, slots=True)
class Judgement:
    """One bound, what was measured, and whether it holds."""

    subject: str
    mode: str
    bound: str
    measured: str
    where: str  # the workload that is nearest to missing the bound, or misses it most
    holds: bool
    remark: str = ""  # where it does not hold: what is short, and what the bound would have taken


def judge(claims: Claims) -> list[Judgement]:
    """Judge every bound in every mode that was run."""
    found = []
    for mode, cells in by_mode(claims, recorded=False):
        for target in claims.targets:
            found += [_mean_ratio(mode, target, cells), _least_ratio(mode, target, cells)]
        found += [_mean_share(mode, claims.targets[0], cells), _least_share(mode, claims.targets[0], cells)]
        if any(cell.loads for cell in cells):
            found.append(_cost(mode, claims.targets[0], cells))
    return found


def by_mode(claims: Claims, *, recorded: bool | None = None) -> Iterator[tuple[str, list[Cell]]]:
    """Yield each mode with its cells: with recorded arrivals, with drawn ones, or (None) with either."""
    for mode in dict.fromkeys(cell.mode for cell in claims.cells):
        cells = [c for c in claims.cells if c.mode == mode and recorded in (None, c.is_recorded)]
        if cells:
            yield mode, cells


def over_need(load: Load) -> float:
    """Return the instances that polyserve owns over the fluid need."""
    return load.mean_instances / load.fluid_instances


def _mean_ratio(mode: str, target: float, cells: Sequence[Cell]) -> Judgement:
    bound, at = MEAN_RATIO.get(mode, max(MEAN_RATIO.values())), target_text(target)
    mean = finite_mean([cell.ratio(target) for cell in cells])
    worst = min(cells, key=lambda cell: cell.ratio(target))
    return Judgement(
        subject=f"goodput at {at} over the best baseline's, mean",
        mode=mode,
        bound=f"≥{NBSP}{ratio_text(bound)}",
        measured=ratio_text(mean),
        where=f"{plain(worst.workload)} ({ratio_text(worst.ratio(target))})",
        holds=mean >= bound,
        remark="" if mean >= bound else _mean_ratio_remark(mode, target, cells, mean, bound),
    )


def _mean_ratio_remark(mode: str, target: float, cells: Sequence[Cell], mean: float, bound: float) -> str:
    baselines = [cell.best_baseline(target).rate_rps / cell.optimum_rps for cell in cells]
    alone, ours = fmean(baselines), fmean(cell.share(target) for cell in cells)
    beyond = sum(bound * share > 1 for share in baselines)
    text = (
        f"{_at(mode, target)}: {ratio_text(mean)} on average, not {ratio_text(bound)}. The best baseline alone "
        f"serves {percent_cell_text(alone)} of the fluid optimum on average; {bound:g} times that is "
        f"{percent_cell_text(bound * alone)}, and polyserve serves {percent_cell_text(ours)}."
    )
    if not beyond:
        return f"{text} The fluid optimum leaves room for the bound on every workload: polyserve falls short of it."
    return f"{text} On {beyond} of {count_text(len(cells), 'workload')} the bound asks for more than the fluid optimum."


def _least_ratio(mode: str, target: float, cells: Sequence[Cell]) -> Judgement:
    worst = min(cells, key=lambda cell: cell.ratio(target))
    short = sorted((c for c in cells if c.ratio(target) < LEAST_RATIO), key=lambda c: c.ratio(target))
    return Judgement(
        subject=f"goodput at {target_text(target)} over the best baseline's, on each workload",
        mode=mode,
        bound=f"≥{NBSP}{ratio_text(LEAST_RATIO)}",
        measured=ratio_text(worst.ratio(target)),
        where=plain(worst.workload),
        holds=not short,
        remark=f"{_at(mode, target)}: {_least_ratio_remark(target, short)}" if short else "",
    )


def _least_ratio_remark(target: float, short: Sequence[Cell]) -> str:
    """Say where gains are small because the best baseline is near the optimum, and where polyserve is far from it."""
    near = [cell for cell in short if cell.share(target) > LEAST_SHARE]
    far = [cell for cell in short if cell not in near]
    remarks = [_near_remark(target, near)] if near else []
    if far:
        names = [f"{plain(cell.workload)} ({ratio_text(cell.ratio(target))}; {_asked(target, cell)})" for cell in far]
        remarks.append(
            f"less than {ratio_text(LEAST_RATIO)}{', too,' if near else ''} on {listed(names)}, where polyserve itself "
            f"serves no more than {percent_cell_text(LEAST_SHARE)} of the fluid optimum."
        )
    return " ".join([remarks[0], *map(opening, remarks[1:])])


def _near_remark(target: float, near: Sequence[Cell]) -> str:
    names = [f"{plain(cell.workload)} ({ratio_text(cell.ratio(target))})" for cell in near]
    asked = [f"on {plain(cell.workload)} {_asked(target, cell)}" for cell in near]
    return (
        f"less than {ratio_text(LEAST_RATIO)} on {listed(names)}, though polyserve serves more than "
        f"{percent_cell_text(LEAST_SHARE)} of the fluid optimum there: the best baseline is itself so close to the "
        f"optimum that the bound asks for nearly all of it, or more ({'; '.join(asked)})."
    )


def _asked(target: float, cell: Cell) -> str:
    """Say what share of the fluid optimum the bound asks for, beside what was served."""
    best = cell.best_baseline(target).rate_rps / cell.optimum_rps
    return (
        f"the bound asks for {percent_cell_text(LEAST_RATIO * best)}, the best baseline serves "
        f"{percent_cell_text(best)} and polyserve {percent_cell_text(cell.share(target))}"
    )


def near_but_unjudged(claims: Claims) -> list[str]:
    """Say the same of recorded arrivals, which the bounds are not about: small gains near the optimum."""
    remarks = []
    for mode, cells in by_mode(claims, recorded=True):
        for target in claims.targets:
            short = [c for c in cells if c.ratio(target) < LEAST_RATIO and c.share(target) > LEAST_SHARE]
            if short:
                remarks.append(f"Not judged, recorded arrivals, {_at(mode, target)}: {_near_remark(target, short)}")
    return remarks


def _mean_share(mode: str, target: float, cells: Sequence[Cell]) -> Judgement:
    mean = fmean(cell.share(target) for cell in cells)
    worst = min(cells, key=lambda cell: cell.share(target))
    holds = mean >= MEAN_SHARE
    return Judgement(
        subject=f"share of the fluid optimum at {target_text(target)}, mean",
        mode=mode,
        bound=f"≥{NBSP}{percent_cell_text(MEAN_SHARE)}",
        measured=percent_cell_text(mean),
        where=f"{plain(worst.workload)} ({percent_cell_text(worst.share(target))})",
        holds=holds,
        remark=""
        if holds
        else f"{_at(mode, target)}: {percent_cell_text(mean)} of the fluid optimum on average, "
        f"not {percent_cell_text(MEAN_SHARE)}.{_without_worst(target, cells)}",
    )


def _without_worst(target: float, cells: Sequence[Cell]) -> str:
    """Say what the mean would be without the workloads on which too little is served; empty where it says nothing."""
    others = [cell.share(target) for cell in cells if cell.share(target) >= LEAST_SHARE]
    if not others or len(others) == len(cells):
        return ""
    count = count_text(len(cells) - len(others), "workload")
    return (
        f" The {count} with less than {percent_cell_text(LEAST_SHARE)} (named below) pull it down; the others serve "
        f"{percent_cell_text(fmean(others))} on average."
    )


def _least_share(mode: str, target: float, cells: Sequence[Cell]) -> Judgement:
    worst = min(cells, key=lambda cell: cell.share(target))
    short = sorted((c for c in cells if c.share(target) < LEAST_SHARE), key=lambda c: c.share(target))
    names = [f"{plain(c.workload)} ({percent_cell_text(c.share(target))})" for c in short]
    bound = percent_cell_text(LEAST_SHARE)
    return Judgement(
        subject=f"share of the fluid optimum at {target_text(target)}, on each workload",
        mode=mode,
        bound=f"≥{NBSP}{bound}",
        measured=percent_cell_text(worst.share(target)),
        where=plain(worst.workload),
        holds=not short,
        remark=f"{_at(mode, target)}: less than {bound} of the fluid optimum on {listed(names)}." if short else "",
    )


def _cost(mode: str, target: float, cells: Sequence[Cell]) -> Judgement:
    """Judge every load of every workload: how many instances tiers own, and that requests are still in time."""
    pairs = [(cell, load) for cell in cells for load in cell.loads]
    cell, load = max(pairs, key=lambda pair: over_need(pair[1]))
    remarks = _cost_remarks(mode, target, pairs)
    return Judgement(
        subject=f"instances owned over the fluid need, at each load of each workload, attaining {target_text(target)}",
        mode=mode,
        bound=f"≤{NBSP}{excess_text(MOST_COST)}",
        measured=excess_text(over_need(load)),
        where=f"{plain(cell.workload)} at {load.share:.0%} load",
        holds=not remarks,
        remark=" ".join(remarks),
    )


def _cost_remarks(mode: str, target: float, pairs: Sequence[tuple[Cell, Load]]) -> list[str]:
    dear = [(cell, load) for cell, load in pairs if over_need(load) > MOST_COST]
    late = [(cell, load) for cell, load in pairs if load.attainment < target]
    remarks = []
    if dear:
        most = [
            f"{_where(here, pairs)}, most on {plain(cell.workload)} ({amount_text(load.mean_instances)} instances, the "
            f"fluid need is {amount_text(load.fluid_instances)}; {_owner_text(cell, load)})"
            for here in _by_load(dear)
            for cell, load in [max(here, key=lambda pair: over_need(pair[1]))]
        ]
        extra = max(load.mean_instances - load.fluid_instances for _, load in dear)
        owners = len(dear[0][0].tpots_ms) + (mode == "pd")
        names = f"{len(dear[0][0].tpots_ms)} tiers" + (" and the prefill side" if mode == "pd" else "")
        whole = "less than one" if extra < owners else "one or more"
        remarks.append(
            f"more than {excess_text(MOST_COST)} {'; '.join(most)}. That is up to {amount_text(extra)} instances more: "
            f"{whole} for each of {names}, which own whole instances."
        )
    if late:
        least = [
            f"{_where(here, pairs)}, least on {plain(cell.workload)} ({share_text(load.attainment)})"
            for here in _by_load(late)
            for cell, load in [min(here, key=lambda pair: pair[1].attainment)]
        ]
        remarks.append(f"attainment below {target_text(target)} {'; '.join(least)}.")
    return [f"{mode.upper()}, cost: {remarks[0]}", *map(opening, remarks[1:])] if remarks else []


def _owner_text(cell: Cell, load: Load) -> str:
    """Say which tier, or the prefill side, owns most above its need."""
    excess = [owned - need for owned, need in zip(load.owners, load.owner_needs, strict=True)]
    k = excess.index(max(excess))
    name = f"the {cell.tpots_ms[k]:g} ms tier" if k < len(cell.tpots_ms) else "the prefill side"
    return f"furthest above its need {name}, {amount_text(load.owners[k])} for {amount_text(load.owner_needs[k])}"


def _by_load(pairs: Sequence[tuple[Cell, Load]]) -> list[list[tuple[Cell, Load]]]:
    shares = dict.fromkeys(load.share for _, load in pairs)
    return [[pair for pair in pairs if pair[1].share == share] for share in shares]


def _where(here: Sequence[tuple[Cell, Load]], pairs: Sequence[tuple[Cell, Load]]) -> str:
    """Say on how many workloads something is so at one load."""
    share = here[0][1].share
    total = sum(load.share == share for _, load in pairs)
    return f"at {share:.0%} load on {len(here)} of {count_text(total, 'workload')}"


def _at(mode: str, target: float) -> str:
    return f"{mode.upper()} at {target_text(target)}"


def nobody_attains(claims: Claims) -> list[str]:
    """Say where a ratio is no number: nobody, or no baseline, reaches a target at any rate."""
    sentences = []
    for cell in claims.cells:
        for target in claims.targets:
            if cell.best_baseline(target).rate_rps <= 0:
                where = f"{plain(cell.workload)} ({cell.mode.upper()})"
                at = f"{target_text(target)} on {where} at any rate"
                if math.isinf(cell.ratio(target)):
                    sentences.append(f"No baseline attains {at}; means of ratios leave it out.")
                else:
                    sentences.append(f"Nobody attains {at}; the ratio is taken for 1.")
    return sentences
