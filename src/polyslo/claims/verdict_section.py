"""The page's first part: each bound with its measurement, and plain sentences on what falls short."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from polyslo.claims.markdown import bold, bullets, code, listed, opening, plain, table
from polyslo.claims.numbers import finite_mean, ratio_text, share_cell, target_text
from polyslo.claims.results import Cell, Claims
from polyslo.claims.verdict import Judgement, by_mode, judge, nobody_attains
from polyslo.report.notation import count_text, mode_text, rate_text


def verdict_section(claims: Claims) -> str:
    """Return the verdict."""
    judged = judge(claims)
    parts = ["## Verdict", headline(judged), _summary(claims), _table(judged)]
    short = [judgement.remark for judgement in judged if not judgement.holds]
    if short:
        parts += ["### What falls short", bullets(short), allowance(claims)]
    behind = _behind(claims)
    if behind:
        parts += ["### Where a baseline is ahead", bullets(behind)]
    return "\n\n".join([*parts, *nobody_attains(claims)])


def headline(judged: Sequence[Judgement]) -> str:
    """Say how many bounds hold."""
    held = sum(judgement.holds for judgement in judged)
    if held == len(judged):
        return bold(f"All {count_text(len(judged), 'bound')} hold.")
    verb = "holds" if held == 1 else "hold"
    return bold(f"{held or 'None'} of {count_text(len(judged), 'bound')} {verb}; {len(judged) - held} fall short.")


def _summary(claims: Claims) -> str:
    """Say what was found with drawn arrivals, which the bounds are about, and with recorded ones."""
    sentences = []
    for mode, cells in by_mode(claims, recorded=False):
        sentences.append(f"{opening(mode_text(mode))}, {count_text(len(cells), 'workload')}: {_means(claims, cells)}.")
    for mode, cells in by_mode(claims, recorded=True):
        traces = count_text(len(cells), "trace")
        sentences.append(f"With the arrivals of {traces} kept ({mode.upper()}; not judged): {_means(claims, cells)}.")
    return bullets(sentences)


def _means(claims: Claims, cells: Sequence[Cell]) -> str:
    ratios = [
        f"{ratio_text(finite_mean([cell.ratio(target) for cell in cells]))} at {target_text(target)}"
        for target in claims.targets
    ]
    share = fmean(cell.share(claims.targets[0]) for cell in cells)
    return (
        f"on average {code('polyserve')} serves {' and '.join(ratios)} what the best tuned baseline serves, and "
        f"{share_cell(share)} of the fluid optimum at {target_text(claims.targets[0])}"
    )


def _table(judged: Sequence[Judgement]) -> str:
    rows = [[j.mode.upper(), j.subject, j.bound, j.measured, j.where, "yes" if j.holds else bold("no")] for j in judged]
    return table(["mode", "claim", "bound", "measured", "least favourable", "holds"], rows, "llrrll")


def allowance(claims: Claims) -> str:
    """Say why the fluid optimum can be exceeded."""
    shares = [f"{1 - target:.0%} at {target_text(target)}" for target in claims.targets]
    return (
        "The fluid optimum is the load that perfect batches without bursts would serve in time. It is no strict limit: "
        f"a target lets some requests miss ({listed(shares)})."
    )


def _behind(claims: Claims) -> list[str]:
    sentences = []
    for cell in claims.cells:
        for target in claims.targets:
            ours, best = cell.ours(target), cell.best_baseline(target)
            if ours.rate_rps < best.rate_rps:
                noise = ", within the noise" if within_noise(cell, target) else ""
                sentences.append(
                    f"{plain(cell.workload)}, {cell.mode.upper()} at {target_text(target)}: {code(best.policy)} serves "
                    f"{rate_text(best.rate_rps)} requests/s, polyserve {rate_text(ours.rate_rps)} "
                    f"({ratio_text(cell.ratio(target))}{noise})."
                )
    return sentences


def within_noise(cell: Cell, target: float) -> bool:
    """Tell whether the 95% intervals of polyserve and the best baseline overlap; one seed gives no interval."""
    ours, best = cell.ours(target), cell.best_baseline(target)
    if min(len(ours.per_seed_rps), len(best.per_seed_rps)) < 2:
        return False
    return ours.low_rps <= best.high_rps and best.low_rps <= ours.high_rps
