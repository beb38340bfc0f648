"""What polyserve owns below the optimum, beside what the fluid optimum would."""

from __future__ import annotations

from polyslo.claims.markdown import bold, opening, plain, table
from polyslo.claims.numbers import excess_text, target_text
from polyslo.claims.results import Claims, Load
from polyslo.claims.verdict import MOST_COST, by_mode, over_need
from polyslo.report.notation import amount_text, mode_text, share_text

BELOW = "†"  # beside a load at which attainment is below the first target


def cost_section(claims: Claims) -> str:
    """Tabulate mean instances over the fluid need, by workload and load."""
    first = claims.targets[0]
    parts = [
        "Mean instances owned by tiers (and by the prefill side) over the instances that the fluid optimum would use, "
        f"which need not be whole; in brackets both numbers. More than {excess_text(MOST_COST)} is in bold.",
    ]
    for mode, cells in by_mode(claims):
        shares = list(dict.fromkeys(load.share for cell in cells for load in cell.loads))
        if shares:
            rows = [[plain(c.workload), *(_text(load, first) for load in c.loads)] for c in cells]
            header = ["workload", *(f"{share:.0%} of the optimum" for share in shares)]
            parts += [bold(opening(mode_text(mode))), table(header, rows, "l" + "r" * len(shares))]
    if any(load.attainment < first for cell in claims.cells for load in cell.loads):
        parts.append(f"{BELOW} attainment below {target_text(first)}, which is given beside it.")
    return "\n\n".join(parts)


def _text(load: Load, target: float) -> str:
    ratio = excess_text(over_need(load))
    text = bold(ratio) if over_need(load) > MOST_COST else ratio
    text += f" ({amount_text(load.mean_instances)} of {amount_text(load.fluid_instances)})"
    return f"{text} {BELOW} {share_text(load.attainment)}" if load.attainment < target else text
