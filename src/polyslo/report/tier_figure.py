"""Attainment by tier and policy at one rate: a matrix whose cells carry their number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from polyslo.report.canvas import add_axes, drawing, new_figure
from polyslo.report.curves import is_ours, point_at, telling_rate
from polyslo.report.labels import shorten, text_px
from polyslo.report.notation import share_text
from polyslo.report.palette import heat_class, placeholder
from polyslo.sim.results import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE_PX = 720
ROW_PX = 34
HEADER_PX = 28
ALL_GAP = 0.2  # between the tiers and the column of all requests, in columns


@drawing()
def tier_figure(comparison: Comparison, rate_rps: float | None = None, width_px: float = WIDE_PX) -> Figure:
    """Draw attainment of each tier (columns) under each policy (rows) at one measured rate.

    Without `rate_rps` it is the rate nearest to polyserve's goodput at the strictest target.
    """
    rate_rps = telling_rate(comparison) if rate_rps is None else rate_rps
    rows = [(p, point) for p in comparison.policies if (point := point_at(comparison, p, rate_rps))]
    places = [*range(len(comparison.tpots_ms)), len(comparison.tpots_ms) + ALL_GAP]
    left_px = min(0.36 * width_px, max((text_px(policy) for policy, _ in rows), default=0) + 16)
    figure, axes = _new_axes(width_px, len(rows), left_px)
    axes.set_xlim(0, places[-1] + 1)
    _write_name(axes, "tier (ms)", -0.4, left_px, placeholder("muted"))
    for place, name in zip(places, [*(f"{tpot_ms:g}" for tpot_ms in comparison.tpots_ms), "all"], strict=True):
        axes.text(place + 0.5, -0.4, name, ha="center", va="center", color=placeholder("muted"))
    for row, (policy, point) in enumerate(rows):
        _write_name(axes, policy, row + 0.5, left_px, placeholder("ink"))
        for place, share in zip(places, (*point.tier_attainments, point.attainment), strict=True):
            _draw_cell(axes, place, row, share)
    return figure


def _new_axes(width_px: float, num_rows: int, left_px: float) -> tuple[Figure, Axes]:
    figure = new_figure(width_px, ROW_PX * num_rows + HEADER_PX + 2)
    axes = add_axes(figure, left_px=left_px, right_px=2, top_px=HEADER_PX, bottom_px=2)
    axes.spines["bottom"].set_visible(False)
    axes.grid(visible=False)
    axes.set_ylim(num_rows, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    return figure, axes


def _write_name(axes: Axes, name: str, row: float, left_px: float, colour: str) -> None:
    axes.text(
        -10 / axes.bbox.width,
        row,
        shorten(name, left_px - 12),
        transform=axes.get_yaxis_transform(),
        ha="right",
        va="center",
        color=colour,
        fontweight="bold" if is_ours(name) else "normal",
    )


def _draw_cell(axes: Axes, place: float, row: int, share: float) -> None:
    from matplotlib.patches import Rectangle

    cell = Rectangle((place + 0.03, row + 0.06), 0.94, 0.88, linewidth=0)
    cell.set_facecolor(placeholder("panel" if math.isnan(share) else f"heat-{heat_class(share)}"))
    axes.add_patch(cell)
    ink = placeholder("muted" if math.isnan(share) else f"heat-ink-{heat_class(share)}")
    axes.text(place + 0.5, row + 0.5, share_text(share), ha="center", va="center", color=ink)
