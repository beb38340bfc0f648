"""Cost below the optimum, a panel a workload: instances owned over the fluid need, by load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from polyslo.claims.results import Cell
from polyslo.claims.verdict import MOST_COST, over_need
from polyslo.report.canvas import TITLE_PX, add_axes, drawing, new_figure, write_title
from polyslo.report.labels import Key, draw_legend, draw_line, legend_height_px, shorten
from polyslo.report.palette import placeholder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE_PX = 720
COLUMN_PX = 240
PANEL_PX = 92
NAME_PX = 26
STEP_PX = PANEL_PX + NAME_PX + 26  # from panel to panel, downwards
LEFT_PX = 40
MODES = {
    "co": Key("co-located", placeholder("policy-ours-0"), "-", "o", 2.0),
    "pd": Key("disaggregated", placeholder("policy-5"), (0, (6, 2)), "s", 1.6),
}
FLUID_KEY = Key("fluid optimum", placeholder("ink"), "-", width_px=1.2)
BOUND_KEY = Key("bound", placeholder("muted"), (0, (1, 2)), width_px=1.2)


@drawing()
def load_figure(cells: Sequence[Cell], width_px: float = WIDE_PX) -> Figure:
    """Draw the cost of every workload whose load was weighed, all on one scale."""
    cells = [cell for cell in cells if cell.loads]
    names = list(dict.fromkeys(cell.workload for cell in cells))
    keys = [key for mode, key in MODES.items() if any(cell.mode == mode for cell in cells)] + [FLUID_KEY, BOUND_KEY]
    num_columns = max(1, int(width_px / COLUMN_PX))
    column_px = width_px / num_columns
    top_px = TITLE_PX + legend_height_px(keys, width_px)
    height_px = top_px + STEP_PX * math.ceil(len(names) / num_columns) + 18
    figure = new_figure(width_px, height_px)
    write_title(figure, "instances owned over the fluid need, by load as a share of the fluid optimum")
    ratios = [over_need(load) for cell in cells for load in cell.loads]
    limits = (min(1.0, *ratios), max(MOST_COST, *ratios))
    for place, name in enumerate(names):
        row, column = divmod(place, num_columns)
        above_px = top_px + STEP_PX * row + NAME_PX
        axes = add_axes(
            figure,
            left_px=column * column_px + LEFT_PX,
            right_px=width_px - (column + 1) * column_px + 12,
            top_px=above_px,
            bottom_px=height_px - above_px - PANEL_PX,
        )
        _draw_panel(axes, [cell for cell in cells if cell.workload == name], limits)
        _write_name(axes, shorten(name, column_px - 14))
        if place == 0:
            draw_legend(axes, keys, left_px=-LEFT_PX, width_px=width_px, bottom_px=NAME_PX)
    return figure


def _draw_panel(axes: Axes, cells: Sequence[Cell], limits: tuple[float, float]) -> None:
    low, high = limits
    margin = 0.08 * (high - low)
    axes.set_ylim(low - margin, high + margin)
    shares = [load.share for cell in cells for load in cell.loads]
    axes.set_xlim(min(shares) - 0.06, max(shares) + 0.06)
    axes.set_xticks(sorted(set(shares)), [f"{share:.0%}" for share in sorted(set(shares))])
    step = next(step for step in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0, math.inf) if (high - low) / step <= 3.2)
    ticks = [1.0 + step * i for i in range(4) if step * i <= high - 1.0 + margin] if math.isfinite(step) else [1.0]
    axes.set_yticks(ticks, [f"{tick:.2f}" if step == 0.25 else f"{tick:.1f}" for tick in ticks])
    axes.axhline(1.0, color=FLUID_KEY.colour, linewidth=FLUID_KEY.width_px)
    axes.axhline(MOST_COST, color=BOUND_KEY.colour, linewidth=BOUND_KEY.width_px, linestyle=BOUND_KEY.dash)
    for cell in cells:
        key = MODES.get(cell.mode, MODES["co"])
        draw_line(axes, [load.share for load in cell.loads], [over_need(load) for load in cell.loads], key)


def _write_name(axes: Axes, name: str) -> None:
    axes.annotate(
        name,
        xy=(-LEFT_PX + 2, axes.bbox.height + 7),
        xycoords="axes points",
        va="bottom",
        color=placeholder("ink"),
        fontweight="bold",
        annotation_clip=False,
    )
