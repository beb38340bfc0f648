"""The page's first part: each bound with its measurement, and plain sentences on what falls short."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from polyslo.claims.markdown import bold, bullets, code, listed, opening, plain, table
from polyslo.claims.misses_section import misses_section
from polyslo.claims.numbers import finite_mean, ratio_text, target_text
from polyslo.claims.results import Cell, Claims
from polyslo.claims.verdict import Judgement, by_mode, judge, near_but_unjudged, nobody_attains
from polyslo.report.notation import count_text, mode_text, percent_cell_text, rate_text


def verdict_section(claims: Claims) -> str:
    """Return the verdict."""
    judged = judge(claims)
    parts = ["## Verdict", headline(judged), _summary(claims), _table(judged), on_the_optimum(claims)]
    short = [judgement.remark for judgement in judged if not judgement.holds]
    if short:
        parts += ["### What falls short", bullets([*short, *near_but_unjudged(claims)]), misses_section(claims)]
    behind = _behind(claims)
    if behind:
        parts += ["### Where a baseline is ahead", bullets(behind)]
    return "\n\n".join(part for part in [*parts, *nobody_attains(claims)] if part)


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
        f"{percent_cell_text(share)} of the fluid optimum at {target_text(claims.targets[0])}"
    )


def _table(judged: Sequence[Judgement]) -> str:
    rows = [[j.mode.upper(), j.subject, j.bound, j.measured, j.where, "yes" if j.holds else bold("no")] for j in judged]
    return table(["mode", "claim", "bound", "measured", "least favourable", "holds"], rows, "llrrll")


def on_the_optimum(claims: Claims) -> str:
    """Say what the fluid optimum leaves out, so that it can be exceeded, and where it was."""
    misses = [f"{1 - target:.0%} at {target_text(target)}" for target in claims.targets]
    first = claims.targets[0]
    beyond = [
        f"{plain(cell.workload)} ({cell.mode.upper()}, {percent_cell_text(share)})"
        for cell in claims.cells
        if (share := max(cell.share(first), cell.best_baseline(first).rate_rps / cell.optimum_rps)) > 1
    ]
    return (
        "The fluid optimum is the load of perfect batches without bursts, every iteration within its TPOT. It is no "
        f"strict limit: a target lets some requests miss ({listed(misses)}), and a first token that is early earns "
        "slack for longer iterations."
    ) + (f" At {target_text(first)} it is exceeded on {listed(beyond)}." if beyond else "")


def _behind(claims: Claims) -> list[str]:
    sentences = []
    for cell in claims.cells:
        for target in claims.targets:
            ours, best = cell.ours(target), cell.best_baseline(target)
            if ours.rate_rps < best.rate_rps:
                noise = ", within the noise" if cell.is_within_noise(target) else ""
                sentences.append(
                    f"{plain(cell.workload)}, {cell.mode.upper()} at {target_text(target)}: {code(best.policy)} serves "
                    f"{rate_text(best.rate_rps)} requests/s, polyserve {rate_text(ours.rate_rps)} "
                    f"({ratio_text(cell.ratio(target))}{noise})."
                )
    return sentences
