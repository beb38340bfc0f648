"""Goodput as bars: a row a workload, polyserve over the best baseline, a panel a target; 100% is the fluid optimum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from polyslo.claims.numbers import ratio_text, target_text
from polyslo.claims.results import Cell
from polyslo.report.canvas import TITLE_PX, add_axes, drawing, new_figure, write_title
from polyslo.report.labels import Key, draw_legend, legend_height_px, shorten, text_px, write_in_row
from polyslo.report.palette import placeholder
from polyslo.sim.results import GoodputResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE_PX = 720
ROW_PX = 34
BAR_ROWS = 0.3  # a bar's height, in rows
HEAD_PX = 26
FOOT_PX = 30
RATIO_PX = 54  # right of each panel
GAP_PX = 14
BASELINE_ALPHA = 0.62
OURS_KEY = Key("polyserve", placeholder("policy-ours-0"))
BEST_KEY = Key("the best baseline", placeholder("policy-0"))
OPTIMUM_KEY = Key("fluid optimum", placeholder("ink"), "-", width_px=1.2)


@drawing()
def share_figure(cells: Sequence[Cell], targets: Sequence[float], width_px: float = WIDE_PX) -> Figure:
    """Draw the goodputs of one mode's cells as shares of their fluid optimum, with 95% intervals and their ratio."""
    keys = [OURS_KEY, BEST_KEY, OPTIMUM_KEY]
    head_px = TITLE_PX + legend_height_px(keys, width_px) + HEAD_PX
    figure = new_figure(width_px, head_px + ROW_PX * len(cells) + FOOT_PX)
    write_title(figure, "goodput as a share of the fluid optimum")
    left_px = min(0.37 * width_px, max(text_px(cell.workload) for cell in cells) + 14)
    panel_px = (width_px - left_px - GAP_PX * (len(targets) - 1)) / len(targets)
    highest = 1.04 * max(
        1.0, *(max(o.high_rps, b.high_rps) / c.optimum_rps for c in cells for o, b in _pairs(c, targets))
    )
    for number, target in enumerate(targets):
        start_px = left_px + number * (panel_px + GAP_PX)
        right_px = width_px - start_px - panel_px + RATIO_PX
        axes = add_axes(figure, left_px=start_px, right_px=right_px, top_px=head_px, bottom_px=FOOT_PX)
        axes.set_xlim(0, highest)
        axes.set_ylim(len(cells) - 0.5, -0.5)
        axes.grid(visible=False)
        axes.set_yticks([])
        ticks = [tick for tick in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0) if tick <= highest]
        ticks = ticks[:: 1 if len(ticks) * 48 <= axes.bbox.width else 2]
        axes.set_xticks(ticks, [f"{tick:.0%}" for tick in ticks])
        axes.axvline(1.0, color=OPTIMUM_KEY.colour, linewidth=OPTIMUM_KEY.width_px, zorder=3)
        _write_head(axes, f"at {target_text(target)} attainment")
        for row, cell in enumerate(cells):
            _draw_pair(axes, cell, target, row)
            if number == 0:
                write_in_row(axes, shorten(cell.workload, left_px - 10), -10, row, ha="right")
        if number == 0:
            draw_legend(axes, keys, left_px=-left_px, width_px=width_px, bottom_px=HEAD_PX)
    return figure


def _pairs(cell: Cell, targets: Sequence[float]) -> list[tuple[GoodputResult, GoodputResult]]:
    return [(cell.ours(target), cell.best_baseline(target)) for target in targets]


def _write_head(axes: Axes, text: str) -> None:
    axes.annotate(
        text,
        xy=(0, axes.bbox.height + 6),
        xycoords="axes points",
        va="bottom",
        color=placeholder("muted"),
        annotation_clip=False,
    )


def _draw_pair(axes: Axes, cell: Cell, target: float, row: int) -> None:
    ((ours, best),) = _pairs(cell, [target])
    for goodput, key, side, alpha in ((ours, OURS_KEY, -0.5, 1.0), (best, BEST_KEY, 0.5, BASELINE_ALPHA)):
        y = row + side * (BAR_ROWS + 0.02)
        axes.barh(y, goodput.rate_rps / cell.optimum_rps, height=BAR_ROWS, color=key.colour, alpha=alpha)
        if len(goodput.per_seed_rps) > 1:
            interval = [goodput.low_rps / cell.optimum_rps, goodput.high_rps / cell.optimum_rps]
            axes.plot(interval, [y, y], color=placeholder("ink"), linewidth=1.2, zorder=4)
            axes.plot(interval, [y, y], color=placeholder("ink"), linestyle="", marker="|", markersize=6, zorder=4)
    is_sure = min(len(ours.per_seed_rps), len(best.per_seed_rps)) > 1 and ours.low_rps > best.high_rps
    ahead = "bold" if is_sure else "normal"
    write_in_row(
        axes, ratio_text(cell.ratio(target)), axes.bbox.width + RATIO_PX - 2, row, ha="right", fontweight=ahead
    )
