"""What each mechanism is worth: goodput without it against goodput with it, on the same seed."""

from __future__ import annotations

from collections.abc import Sequence

from polyslo.claims.cases import OURS
from polyslo.claims.markdown import bold, bullets, code, listed, opening, plain, table
from polyslo.claims.mechanisms import INSTEAD
from polyslo.claims.numbers import change_text, target_text
from polyslo.claims.results import Cell, Claims
from polyslo.claims.verdict import by_mode
from polyslo.report.notation import MISSING, mode_text

NOTHING = 0.01  # of goodput: a smaller change is not told from none by one seed


def ablation_section(claims: Claims) -> str:
    """Tabulate changes in goodput, workloads by mechanisms; empty where nothing was ablated."""
    mechanisms = list(dict.fromkeys(a.mechanism for cell in claims.cells for a in cell.ablations))
    if not mechanisms:
        return ""
    parts = [
        "## What each mechanism is worth",
        "Change in goodput when polyserve does without one mechanism, against polyserve with the same seed (the "
        f"first). Positive: it would be better off without. Changes of less than {NOTHING:.0%} are not told from none.",
        table(["without", "what happens instead"], [[code(m), INSTEAD.get(m, MISSING)] for m in mechanisms], "ll"),
    ]
    for mode, cells in by_mode(claims):
        ablated = [cell for cell in cells if cell.ablations]
        for k, target in enumerate(claims.targets if ablated else ()):
            rows = [[plain(c.workload), *(_cell_text(change(c, m, k)) for m in mechanisms)] for c in ablated]
            parts.append(bold(f"{opening(mode_text(mode))}, at {target_text(target)}"))
            parts.append(table(["workload", *map(code, mechanisms)], rows, "l" + "r" * len(mechanisms)))
    return "\n\n".join([*parts, *_findings(claims)])


def change(cell: Cell, mechanism: str, k: int) -> float | None:
    """Return the relative change at the k-th target; None where it was not tried or polyserve never attains."""
    ours = next((tried.rates_rps[k] for tried in cell.tried if tried.policy == OURS), 0.0)
    without = next((a.rates_rps[k] for a in cell.ablations if a.mechanism == mechanism), None)
    return None if without is None or ours <= 0 else without / ours - 1


def _cell_text(value: float | None) -> str:
    if value is None:
        return MISSING
    return change_text(value) if abs(value) < NOTHING else bold(change_text(value))


def _findings(claims: Claims) -> list[str]:
    """Name, by workload, the mechanisms that do nothing there, and those that it would be better off without."""
    idle, harmful = [], []
    for cell in claims.cells:
        changes = {a.mechanism: _changes(cell, a.mechanism, claims.targets) for a in cell.ablations}
        where = f"{plain(cell.workload)} ({cell.mode.upper()})"
        nothing = [code(m) for m, values in changes.items() if values and all(abs(v) < NOTHING for v in values)]
        worse = [
            f"{code(m)} ({change_text(max(values))})"
            for m, values in changes.items()
            if values and max(values) >= NOTHING
        ]
        if nothing:
            idle.append(f"{where}: {listed(nothing)}")
        if worse:
            harmful.append(f"{where}: {listed(worse)}")
    parts = []
    if idle:
        parts += [f"Less than {NOTHING:.0%} at every target, so they do nothing there:", bullets(idle)]
    if harmful:
        parts += ["Better off without, at some target:", bullets(harmful)]
    return parts


def _changes(cell: Cell, mechanism: str, targets: Sequence[float]) -> list[float]:
    values = (change(cell, mechanism, k) for k in range(len(targets)))
    return [value for value in values if value is not None]
