"""Goodput by workload: polyserve against the best baseline, every policy, every variant, and attainment by tier."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from polyslo.claims.cases import OURS
from polyslo.claims.markdown import NBSP, bold, code, folded, listed, opening, plain, table
from polyslo.claims.numbers import finite_mean, ratio_text, target_text, with_interval
from polyslo.claims.results import Cell, Claims
from polyslo.claims.verdict import by_mode
from polyslo.report.notation import (
    MISSING,
    goodput_text,
    mode_text,
    percent_cell_text,
    rate_text,
    share_text,
    tier_name,
)

NOISE = "≈"  # beside a ratio whose goodputs' intervals overlap


def against_best(claims: Claims, mode: str) -> str:
    """Tabulate polyserve against the best baseline, one table a target; recorded arrivals in tables of their own."""
    parts = []
    for recorded in (False, True):
        cells = [c for c in claims.cells if c.mode == mode and c.is_recorded == recorded]
        for target in claims.targets if cells else ():
            title = f"At {target_text(target)} attainment" + (", the traces' own arrivals" if recorded else "")
            parts += [bold(title), _against_table(cells, target)]
    return "\n\n".join([*parts, *_on_intervals([c for c in claims.cells if c.mode == mode], claims.targets)])


def every_policy(claims: Claims) -> str:
    """Tabulate the goodput of every policy, each with its best parameters."""
    parts = [
        "## Every policy",
        "Requests per second, each policy with the parameters that are best for the workload, the mode and the target.",
    ]
    for mode, cells in by_mode(claims):
        for target in claims.targets:
            names = list(dict.fromkeys(name for cell in cells for name in cell.policies))
            rows = [[plain(cell.workload), *_goodput_cells(cell, target, names)] for cell in cells]
            heading = bold(f"{opening(mode_text(mode))}, at {target_text(target)}")
            parts += [heading, table(["workload", *map(code, names)], rows, "l" + "r" * len(names))]
    return "\n\n".join(parts)


def by_tier(claims: Claims) -> str:
    """Tabulate attainment by tier at the rate that polyserve serves, folded, one part a mode."""
    first = target_text(claims.targets[0])
    parts = []
    for mode, cells in by_mode(claims):
        inside = []
        for tpots_ms in dict.fromkeys(cell.tpots_ms for cell in cells if cell.tiers):
            rows = [
                [
                    plain(cell.workload),
                    rate_text(_tier_rate(cell, claims)),
                    code(row.policy),
                    *map(share_text, row.attainments),
                ]
                for cell in cells
                if cell.tpots_ms == tpots_ms
                for row in cell.tiers
            ]
            header = ["workload", "requests/s", "policy", *map(tier_name, tpots_ms)]
            inside.append(table(header, rows, "lrl" + "r" * len(tpots_ms)))
        if inside:
            parts.append(
                folded(f"Attainment by tier, {mode_text(mode)}, at the rate polyserve serves at {first}", *inside)
            )
    return "\n\n".join(parts)


def tuning(claims: Claims) -> str:
    """Tabulate every variant that was tried, folded, one part a mode."""
    parts = [
        "## The baselines' parameters",
        "Every variant, its goodput in requests per second with the first seed in the runs that choose parameters, the "
        "best at the stricter target first.",
    ]
    for mode, cells in by_mode(claims):
        inside = [part for cell in cells for part in (bold(plain(cell.workload)), _tried_table(cell, claims.targets))]
        count = sum(len(cell.tuned) for cell in cells)
        parts.append(folded(f"{opening(mode_text(mode))}: {count:,} searches", *inside))
    return "\n\n".join(parts)


def _on_intervals(cells: Sequence[Cell], targets: Sequence[float]) -> list[str]:
    """Say what intervals can't tell apart, what seeds say of it all the same, and where there is no interval."""
    pairs = [(cell, target) for cell in cells for target in targets]
    noisy = [pair for pair in pairs if pair[0].is_within_noise(pair[1])]
    parts = []
    if noisy:
        agreed = [_place(*pair) for pair in noisy if _leads_every_seed(*pair)]
        others = [_place(*pair) for pair in noisy if not _leads_every_seed(*pair)]
        text = f"{NOISE} within the noise: the 95% intervals overlap."
        text += f" Polyserve is ahead with every seed on {listed(agreed)}." if agreed else ""
        parts.append(text + (f" It is not on {listed(others)}." if others else ""))
    if any(min(len(c.ours(t).per_seed_rps), len(c.best_baseline(t).per_seed_rps)) < 2 for c, t in pairs):
        parts.append("A goodput without an interval is of one seed.")
    return parts


def _place(cell: Cell, target: float) -> str:
    return f"{plain(cell.workload)} at {target_text(target)}"


def _against_table(cells: Sequence[Cell], target: float) -> str:
    header = [
        "workload", "fluid optimum", "polyserve (95% interval)", "of the optimum", "best baseline",
        "its goodput (95% interval)", "of the optimum", "ratio",
    ]  # fmt: skip
    rows = [_against_row(cell, target) for cell in cells]
    if len(cells) > 1:
        ours = percent_cell_text(fmean(cell.share(target) for cell in cells))
        best = percent_cell_text(fmean(cell.best_baseline(target).rate_rps / cell.optimum_rps for cell in cells))
        ratio = ratio_text(finite_mean([cell.ratio(target) for cell in cells]))
        rows.append([bold("mean"), "", "", bold(ours), "", "", bold(best), bold(ratio)])
    return table(header, rows, "lrrrlrrr")


def _against_row(cell: Cell, target: float) -> list[str]:
    ours, best = cell.ours(target), cell.best_baseline(target)
    return [
        plain(cell.workload),
        rate_text(cell.optimum_rps),
        with_interval(ours),
        percent_cell_text(cell.share(target)),
        code(best.policy) if best.rate_rps > 0 else "none attains it",
        with_interval(best),
        percent_cell_text(best.rate_rps / cell.optimum_rps),
        ratio_text(cell.ratio(target)) + (f"{NBSP}{NOISE}" if cell.is_within_noise(target) else ""),
    ]


def _leads_every_seed(cell: Cell, target: float) -> bool:
    ours, best = cell.ours(target).per_seed_rps, cell.best_baseline(target).per_seed_rps
    return len(ours) == len(best) and all(a > b for a, b in zip(ours, best, strict=True))


def _goodput_cells(cell: Cell, target: float, names: Sequence[str]) -> list[str]:
    """Write a row of goodputs, with the highest and all that read the same in bold."""
    goodputs = [cell.goodput(name, target) for name in names]
    texts = [goodput_text(goodput) for goodput in goodputs]
    rates = [goodput.rate_rps if goodput else -1.0 for goodput in goodputs]
    best = texts[rates.index(max(rates))] if max(rates) > 0 else MISSING
    return [bold(text) if text == best != MISSING else text for text in texts]


def _tier_rate(cell: Cell, claims: Claims) -> float:
    """Return the rate that tiers were looked at: the first target's goodput, else the optimum (as `evaluation`)."""
    return cell.ours(claims.targets[0]).rate_rps or cell.optimum_rps


def _tried_table(cell: Cell, targets: Sequence[float]) -> str:
    order = sorted(cell.tuned, key=lambda tried: (tried.policy != OURS, [-rate for rate in tried.rates_rps]))
    rows = [[code(tried.policy), *map(rate_text, tried.rates_rps)] for tried in order]
    return table(["policy", *(f"at {target_text(target)}" for target in targets)], rows, "l" + "r" * len(targets))
