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

NOTHING = 0.02  # of goodput: a smaller change is not told from none by one seed and searches that end early


def ablation_section(claims: Claims) -> str:
    """Tabulate changes in goodput, workloads by mechanisms; empty where nothing was ablated."""
    mechanisms = list(dict.fromkeys(a.mechanism for cell in claims.cells for a in cell.ablations))
    if not mechanisms:
        return ""
    parts = [
        "## What each mechanism is worth",
        "Change in goodput when polyserve does without one mechanism, against polyserve with the same seed (the "
        f"first) in the same short runs. Positive: it would be better off without. Changes of less than {NOTHING:.0%} "
        "are not told from none; the others are in bold. What a mechanism does for cost is not in these tables.",
        table(["without", "what happens instead"], [[code(m), INSTEAD.get(m, MISSING)] for m in mechanisms], "ll"),
    ]
    for mode, cells in by_mode(claims):
        ablated = [cell for cell in cells if cell.ablations]
        for k, target in enumerate(claims.targets if ablated else ()):
            rows = [[plain(c.workload), *(_cell_text(change(c, m, k)) for m in mechanisms)] for c in ablated]
            parts.append(bold(f"{opening(mode_text(mode))}, at {target_text(target)}"))
            parts.append(table(["workload", *map(code, mechanisms)], rows, "l" + "r" * len(mechanisms)))
    return "\n\n".join([*parts, *_findings(claims, mechanisms)])


def change(cell: Cell, mechanism: str, k: int) -> float | None:
    """Return the relative change at the k-th target; None where it was not tried or polyserve never attains."""
    ours = next((tried.rates_rps[k] for tried in cell.tuned if tried.policy == OURS), 0.0)
    without = next((a.rates_rps[k] for a in cell.ablations if a.mechanism == mechanism), None)
    return None if without is None or ours <= 0 else without / ours - 1


def is_nothing(value: float) -> bool:
    """Tell whether a change reads as less than `NOTHING`."""
    return round(abs(value), 3) < NOTHING


def _cell_text(value: float | None) -> str:
    if value is None:
        return MISSING
    return change_text(value) if is_nothing(value) else bold(change_text(value))


def _findings(claims: Claims, mechanisms: Sequence[str]) -> list[str]:
    """Name where each mechanism does nothing, and where polyserve would be better off without it."""
    idle, harmful = [], []
    for mechanism in mechanisms:
        texts = [_idle_text(mechanism, mode, cells, claims.targets) for mode, cells in by_mode(claims)]
        worse = [
            f"{plain(cell.workload)} ({cell.mode.upper()}, {change_text(max(values))})"
            for cell in claims.cells
            if (values := _changes(cell, mechanism, claims.targets)) and max(values) > 0 and not is_nothing(max(values))
        ]
        idle += [f"{code(mechanism)}: {'; '.join(filter(None, texts))}"] if any(texts) else []
        harmful += [f"{code(mechanism)}: {listed(worse)}"] if worse else []
    parts = []
    if idle:
        parts += [f"Less than {NOTHING:.0%} at every target, so these do nothing for goodput there:", bullets(idle)]
    if harmful:
        parts += ["polyserve would be better off without, at some target:", bullets(harmful)]
    return parts


def _idle_text(mechanism: str, mode: str, cells: Sequence[Cell], targets: Sequence[float]) -> str:
    """Name a mode's workloads where a mechanism changes nothing; empty when there is none."""
    tried = [(cell, values) for cell in cells if (values := _changes(cell, mechanism, targets))]
    names = [plain(cell.workload) for cell, values in tried if all(map(is_nothing, values))]
    if not names:
        return ""
    return f"{mode.upper()} on {'every workload' if len(names) == len(tried) > 1 else listed(names)}"


def _changes(cell: Cell, mechanism: str, targets: Sequence[float]) -> list[float]:
    values = (change(cell, mechanism, k) for k in range(len(targets)))
    return [value for value in values if value is not None]
