"""Attainment against rate: what the searches for goodput saw of each policy's best variant."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from polyslo.claims.cases import OURS, family
from polyslo.claims.results import Cell, Tried
from polyslo.claims.work import LEAST_TOLD
from polyslo.report.canvas import TITLE_PX, add_axes, drawing, new_figure, write_title
from polyslo.report.labels import draw_legend, draw_line, legend_height_px, policy_keys
from polyslo.report.scales import BOTTOM_PX, HEADER_PX, scale_rate, scale_share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE_PX = 720
PLOT_PX = 300
LEFT_PX = 46
RIGHT_PX = 14
FLOOR = 0.8  # attainments below are not shown


def best_variants(cell: Cell, target: float) -> list[Tried]:
    """Return what was seen of each policy with the parameters that are best at a target."""
    best = [cell.goodput(name, target) for name in cell.policies]
    names = [goodput.policy for goodput in best if goodput]
    return [tried for name in names for tried in cell.tried if tried.policy == name]


@drawing()
def seen_figure(cell: Cell, targets: Sequence[float], width_px: float = WIDE_PX) -> Figure:
    """Draw attainment down to `FLOOR` over the offered rate, the first seed; polyserve in front."""
    variants = best_variants(cell, targets[0])
    names = [family(tried.policy) for tried in variants]
    keys = policy_keys(names)
    top_px = TITLE_PX + HEADER_PX + legend_height_px(keys, width_px)
    figure = new_figure(width_px, top_px + PLOT_PX + BOTTOM_PX)
    write_title(figure, "attainment")
    axes = add_axes(figure, left_px=LEFT_PX, right_px=RIGHT_PX, top_px=top_px, bottom_px=BOTTOM_PX)
    shown = [rate for tried in variants for rate, _ in _shown(tried.seen)]
    scale_rate(axes, shown or [0.0, cell.optimum_rps], cell.optimum_rps)
    scale_share(axes, FLOOR + 0.01, targets)  # its floor is the round share below
    for key, tried in sorted(zip(keys, variants, strict=True), key=lambda drawn: drawn[1].policy == OURS):
        points = _shown(tried.seen)
        draw_line(axes, [rate for rate, _ in points], [attainment for _, attainment in points], key)
    draw_legend(axes, keys, left_px=-LEFT_PX, width_px=width_px, bottom_px=HEADER_PX)
    return figure


def _shown(seen: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return what lies above the floor, and where the line leaves through it, if that was seen exactly."""
    points = [point for point in seen if point[1] >= FLOOR]
    for (rate, attainment), (later, lower) in pairwise(seen):
        if attainment >= FLOOR > lower:
            if lower < LEAST_TOLD:
                return [p for p in points if p[0] <= rate]
            part = (attainment - FLOOR) / (attainment - lower)
            return [p for p in points if p[0] <= rate] + [(rate + part * (later - rate), FLOOR)]
    return points
