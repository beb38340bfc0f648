"""Goodput as bars: a block a target, a bar a policy with its 95% interval, against the fluid optimum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from polyslo.report.canvas import add_axes, drawing, new_figure
from polyslo.report.curves import goodput_of, is_ours, num_seeds, optimum_of, targets_of
from polyslo.report.labels import shorten, text_px, write_in_row
from polyslo.report.notation import goodput_text, percent_cell_text
from polyslo.report.palette import placeholder, policy_style
from polyslo.report.scales import BOTTOM_PX, HEADER_PX, scale_goodput
from polyslo.sim.results import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE_PX = 720
ROW_PX = 24
BLOCK_GAP = 0.6  # between the blocks of two targets, in rows
NUMBERS_PX = 116  # margin right of the bars: the rate and its share of the optimum
SHARE_PX = 58  # of that, the share
BASELINE_ALPHA = 0.62


@drawing()
def goodput_figure(comparison: Comparison, width_px: float = WIDE_PX) -> Figure:
    """Draw the goodput of every policy at every target, the highest first."""
    targets = targets_of(comparison)
    left_px = min(0.42 * width_px, max(text_px(p) for p in comparison.policies) + 16)
    num_rows = len(targets) * (len(comparison.policies) + 1 + BLOCK_GAP) - BLOCK_GAP
    figure = new_figure(width_px, num_rows * ROW_PX + BOTTOM_PX + HEADER_PX)
    margins = {"left_px": left_px, "right_px": NUMBERS_PX, "top_px": HEADER_PX, "bottom_px": BOTTOM_PX}
    axes = add_axes(figure, **margins)
    axes.set_ylim(num_rows - 0.4, -0.6)
    axes.set_yticks([])
    highs = [g.high_rps for g in comparison.goodputs if math.isfinite(g.high_rps)]
    scale_goodput(axes, max(highs, default=1.0) or 1.0, optimum_of(comparison))
    row = 0.0
    for target in targets:
        write_in_row(axes, f"at {target:.2f} attainment", -left_px, row, ha="left", color=placeholder("muted"))
        for policy in _by_goodput(comparison, target):
            row += 1
            _draw_policy(axes, comparison, policy, target, row, left_px)
        row += 1 + BLOCK_GAP
    return figure


def _by_goodput(comparison: Comparison, target: float) -> list[str]:
    def rate_rps(policy: str) -> float:
        goodput = goodput_of(comparison, policy, target)
        return goodput.rate_rps if goodput else 0.0

    return sorted(comparison.policies, key=rate_rps, reverse=True)


def _draw_policy(axes: Axes, comparison: Comparison, policy: str, target: float, row: float, left_px: float) -> None:
    """Draw one bar, its name, and its numbers in a column of their own, where nothing crosses them."""
    goodput = goodput_of(comparison, policy, target)
    optimum = optimum_of(comparison)
    weight = "bold" if is_ours(policy) else "normal"
    numbers_px = axes.bbox.width + NUMBERS_PX - SHARE_PX
    write_in_row(axes, shorten(policy, left_px - 10), -8, row, ha="right", fontweight=weight)
    write_in_row(
        axes,
        goodput_text(goodput),
        numbers_px,
        row,
        ha="right",
        fontweight=weight,
    )
    if goodput is None:
        return
    alpha = 1 if is_ours(policy) else BASELINE_ALPHA
    colour = policy_style(policy, comparison.policies).colour
    axes.barh(row, goodput.rate_rps, height=0.62, color=colour, alpha=alpha)
    if num_seeds(comparison) > 1:
        interval = [goodput.low_rps, goodput.high_rps]
        axes.plot(interval, [row, row], color=placeholder("ink"), linewidth=1.5)
        axes.plot(interval, [row, row], color=placeholder("ink"), linestyle="", marker="|", markersize=7)
    if optimum:
        share = percent_cell_text(goodput.rate_rps / optimum)
        write_in_row(axes, share, axes.bbox.width + NUMBERS_PX - 2, row, ha="right", color=placeholder("muted"))
