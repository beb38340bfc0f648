"""What each mechanism does for cost: instances owned without it against instances owned with it, by load."""

from __future__ import annotations

from collections.abc import Sequence

from polyslo.claims.cost_section import BELOW
from polyslo.claims.markdown import bold, bullets, code, listed, opening, plain, table
from polyslo.claims.numbers import change_text, target_text
from polyslo.claims.results import Cell, Claims, CostWithout
from polyslo.claims.verdict import by_mode
from polyslo.report.notation import MISSING, amount_text, mode_text, share_text

NOTHING = 0.05  # of the instances owned: with other seeds changes vary by 2% (standard deviation), some by 5%


def ablated_cost(claims: Claims) -> list[str]:
    """Tabulate changes in instances owned, workloads by mechanisms, load by load; nothing where none was looked at."""
    costs = [cost for cell in claims.cells for cost in cell.costs]
    mechanisms = list(dict.fromkeys(cost.mechanism for cost in costs if cost.mechanism))
    if not mechanisms:
        return []
    first = claims.targets[0]
    parts = [
        "### For cost",
        "Instances that polyserve owns on average with all mechanisms, and the change without one, on the same "
        "requests (first seed, runs at full length). Negative: it would own fewer. "
        f"Changes of less than {NOTHING:.0%} are not told from none: with other seeds they vary as much. The others "
        f"are in bold. {BELOW} attainment below {target_text(first)}, which is given beside it: fewer instances are no "
        "merit there.",
    ]
    for share in dict.fromkeys(cost.share for cost in costs):
        parts += [f"#### At {share:.0%} of the fluid optimum", *_at_share(claims, share, mechanisms, first)]
    return parts


def _at_share(claims: Claims, share: float, mechanisms: Sequence[str], target: float) -> list[str]:
    """Tabulate one load, and say what it shows."""
    parts = []
    for mode, cells in by_mode(claims):
        weighed = [cell for cell in cells if cell.costs]
        if weighed:
            rows = [_row(cell, share, mechanisms, target) for cell in weighed]
            header = ["workload", "with all", *map(code, mechanisms)]
            parts += [bold(opening(mode_text(mode))), table(header, rows, "l" + "r" * (len(header) - 1))]
    return [*parts, *_findings(claims, share, mechanisms, target)]


def _row(cell: Cell, share: float, mechanisms: Sequence[str], target: float) -> list[str]:
    whole = _cost(cell, share, None)
    text = _with_attainment(amount_text(whole.mean_instances), whole, target) if whole else MISSING
    return [plain(cell.workload), text, *(_cell_text(cell, share, mechanism, target) for mechanism in mechanisms)]


def _cell_text(cell: Cell, share: float, mechanism: str, target: float) -> str:
    cost, change = _cost(cell, share, mechanism), _change(cell, share, mechanism)
    if cost is None or change is None:
        return MISSING
    text = change_text(change)
    return _with_attainment(text if _is_nothing(change) else bold(text), cost, target)


def _with_attainment(text: str, cost: CostWithout, target: float) -> str:
    return f"{text} {BELOW} {share_text(cost.attainment)}" if cost.attainment < target else text


def _cost(cell: Cell, share: float, mechanism: str | None) -> CostWithout | None:
    return next((cost for cost in cell.costs if (cost.share, cost.mechanism) == (share, mechanism)), None)


def _change(cell: Cell, share: float, mechanism: str) -> float | None:
    """Return the relative change of instances owned; None where it was not tried."""
    whole, without = _cost(cell, share, None), _cost(cell, share, mechanism)
    if whole is None or without is None or whole.mean_instances <= 0:
        return None
    return without.mean_instances / whole.mean_instances - 1


def _is_nothing(change: float) -> bool:
    return round(abs(change), 3) < NOTHING


def _findings(claims: Claims, share: float, mechanisms: Sequence[str], target: float) -> list[str]:
    """Name where nothing is seen of a mechanism, and where polyserve would own fewer instances without it."""
    idle, dear = [], []
    for mechanism in mechanisms:
        texts = [_idle_text(mechanism, mode, cells, share, target) for mode, cells in by_mode(claims)]
        fewer = [
            f"{plain(cell.workload)} ({cell.mode.upper()}, {change_text(change)})"
            for cell in claims.cells
            if (change := _change(cell, share, mechanism)) is not None
            and change < 0
            and not _is_nothing(change)
            and not _is_late(cell, share, mechanism, target)
        ]
        idle += [f"{code(mechanism)}: {'; '.join(filter(None, texts))}"] if any(texts) else []
        dear += [f"{code(mechanism)}: {listed(fewer)}"] if fewer else []
    parts = []
    if idle:
        parts += [
            f"Less than {NOTHING:.0%}, with {target_text(target)} attained, so nothing is seen of what these do for "
            "cost there:",
            bullets(idle),
        ]
    if dear:
        parts += [f"polyserve would own fewer instances without, with {target_text(target)} attained:", bullets(dear)]
    return parts


def _idle_text(mechanism: str, mode: str, cells: Sequence[Cell], share: float, target: float) -> str:
    """Name a mode's workloads where a mechanism changes neither cost nor attainment; empty when there is none."""
    tried = [(cell, change) for cell in cells if (change := _change(cell, share, mechanism)) is not None]
    idle = [cell for cell, change in tried if _is_nothing(change) and not _is_late(cell, share, mechanism, target)]
    return where_text(mode, [plain(cell.workload) for cell in idle], len(tried))


def where_text(mode: str, names: Sequence[str], num_tried: int) -> str:
    """Say on which of a mode's workloads something is so; empty where it is on none."""
    if not names:
        return ""
    return f"{mode.upper()} on {'every workload' if len(names) == num_tried > 1 else listed(names)}"


def _is_late(cell: Cell, share: float, mechanism: str, target: float) -> bool:
    """Tell whether requests are late without a mechanism."""
    cost = _cost(cell, share, mechanism)
    return cost is not None and cost.attainment < target
