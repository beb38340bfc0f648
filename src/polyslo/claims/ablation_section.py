"""What each mechanism is worth: goodput without it against goodput with it, on the same seed; then the cost."""

from __future__ import annotations

from collections.abc import Sequence

from polyslo.claims.ablated_cost import ablated_cost, where_text
from polyslo.claims.cases import OURS
from polyslo.claims.markdown import bold, bullets, code, listed, opening, plain, table
from polyslo.claims.mechanisms import INSTEAD
from polyslo.claims.numbers import change_text, target_text
from polyslo.claims.results import Cell, Claims
from polyslo.claims.verdict import by_mode
from polyslo.report.notation import MISSING, mode_text

NOTHING = 0.02  # of goodput: a smaller change is not told from none by one seed and searches that end early
NOISE = "≈"  # beside a larger change that is not told from noise


def ablation_section(claims: Claims) -> str:
    """Tabulate changes in goodput, workloads by mechanisms, then those in cost; empty where nothing was ablated."""
    mechanisms = list(dict.fromkeys(a.mechanism for cell in claims.cells for a in cell.ablations))
    if not mechanisms:
        return ""
    parts = [
        "## What each mechanism is worth",
        "Change in goodput when polyserve does without one mechanism, against polyserve with the same seed (the "
        f"first) in the same short runs. Positive: it would be better off without. Changes of less than {NOTHING:.0%} "
        f"are not told from none. Those marked {NOISE} are larger, but smaller than half of the 95% interval that "
        "polyserve's own goodput has over the seeds there, so not told from noise; the interval is a yardstick only, "
        "from longer runs with other requests, while these see the same with and without. All others are in bold.",
        table(["without", "what happens instead"], [[code(m), INSTEAD.get(m, MISSING)] for m in mechanisms], "ll"),
    ]
    for mode, cells in by_mode(claims):
        ablated = [cell for cell in cells if cell.ablations]
        for k, target in enumerate(claims.targets if ablated else ()):
            rows = [[plain(c.workload), *(_cell_text(c, m, k, target) for m in mechanisms)] for c in ablated]
            parts.append(bold(f"{opening(mode_text(mode))}, at {target_text(target)}"))
            parts.append(table(["workload", *map(code, mechanisms)], rows, "l" + "r" * len(mechanisms)))
    return "\n\n".join([*parts, *_findings(claims, mechanisms), *ablated_cost(claims)])


def change(cell: Cell, mechanism: str, k: int) -> float | None:
    """Return the relative change at the k-th target; None where it was not tried or polyserve never attains."""
    ours = next((tried.rates_rps[k] for tried in cell.tuned if tried.policy == OURS), 0.0)
    without = next((a.rates_rps[k] for a in cell.ablations if a.mechanism == mechanism), None)
    return None if without is None or ours <= 0 else without / ours - 1


def is_nothing(value: float) -> bool:
    """Tell whether a change reads as less than `NOTHING`."""
    return round(abs(value), 3) < NOTHING


def is_told(cell: Cell, value: float, target: float) -> bool:
    """Tell whether a change is told from noise: at least `NOTHING`, and half of polyserve's interval in the cell."""
    return not is_nothing(value) and abs(value) >= cell.noise_ratio(target)


def _cell_text(cell: Cell, mechanism: str, k: int, target: float) -> str:
    value = change(cell, mechanism, k)
    if value is None:
        return MISSING
    if is_told(cell, value, target):
        return bold(change_text(value))
    return change_text(value) if is_nothing(value) else f"{change_text(value)} {NOISE}"


def _findings(claims: Claims, mechanisms: Sequence[str]) -> list[str]:
    """Name where nothing is seen of a mechanism, and where polyserve would be better off without it."""
    idle, harmful = [], []
    for mechanism in mechanisms:
        texts = [_idle_text(mechanism, mode, cells, claims.targets) for mode, cells in by_mode(claims)]
        worse = [
            f"{plain(cell.workload)} ({cell.mode.upper()}, {change_text(max(values))})"
            for cell in claims.cells
            if (values := _told(cell, mechanism, claims.targets)) and max(values) > 0
        ]
        idle += [f"{code(mechanism)}: {'; '.join(filter(None, texts))}"] if any(texts) else []
        harmful += [f"{code(mechanism)}: {listed(worse)}"] if worse else []
    parts = []
    if idle:
        parts += [
            f"Less than {NOTHING:.0%} or within the noise ({NOISE}) at every target, so nothing is seen of what these "
            "do for goodput there:",
            bullets(idle),
        ]
    if harmful:
        parts += ["polyserve would be better off without, at some target:", bullets(harmful)]
    return parts


def _idle_text(mechanism: str, mode: str, cells: Sequence[Cell], targets: Sequence[float]) -> str:
    """Name a mode's workloads where no change is told from noise; empty when there is none."""
    tried = [cell for cell in cells if any(change(cell, mechanism, k) is not None for k in range(len(targets)))]
    names = [plain(cell.workload) for cell in tried if not _told(cell, mechanism, targets)]
    return where_text(mode, names, len(tried))


def _told(cell: Cell, mechanism: str, targets: Sequence[float]) -> list[float]:
    """Return the changes that are told from noise, of all targets."""
    values = [(change(cell, mechanism, k), target) for k, target in enumerate(targets)]
    return [value for value, target in values if value is not None and is_told(cell, value, target)]
