"""Figures with a line a policy over the offered rate: attainment, and cost.

Lines are named at their ends where the figure is wide enough and they end at one rate, else in a legend above
it. Colours are placeholders, for `canvas.to_svg` or `canvas.save_figure`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from polyslo.report.canvas import TITLE_PX, add_axes, drawing, new_figure, write_title
from polyslo.report.curves import OURS, curve, is_ours, optimum_of, targets_of
from polyslo.report.labels import Key, draw_legend, draw_line, label_line_ends, legend_height_px, policy_keys, text_px
from polyslo.report.scales import BOTTOM_PX, HEADER_PX, scale_amount, scale_rate, scale_share
from polyslo.report.verdict import USABLE_SHARE
from polyslo.sim.results import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE_PX = 720
NARROW_PX = 520  # below, names move from the line ends into a legend
LEFT_PX = 46
BAND_ALPHA = 0.16


@drawing()
def attainment_figure(comparison: Comparison, width_px: float = WIDE_PX) -> Figure:
    """Draw attainment against offered rate: mean over seeds, their range, the targets and the optimum."""
    drawn = _back_to_front(comparison.policies)
    curves = {policy: points for policy in drawn if (points := curve(comparison, policy))}
    has_legend = _has_legend(comparison, width_px)
    figure, axes = _new_axes(comparison, width_px, height_px=410, has_legend=has_legend)
    write_title(figure, "attainment")
    lowest = min(p.lowest_attainment for points in curves.values() for p in points)
    scale_share(axes, lowest, targets_of(comparison))
    keys = _keys(comparison)
    ends = {}
    for policy, points in curves.items():
        key = keys[policy]
        rates = [p.rate_rps for p in points]
        band = [p.lowest_attainment for p in points], [p.highest_attainment for p in points]
        axes.fill_between(rates, *band, color=key.colour, alpha=BAND_ALPHA, linewidth=0)
        draw_line(axes, rates, [p.attainment for p in points], key)
        ends[policy] = rates[-1], points[-1].attainment
    if has_legend:
        draw_legend(axes, keys.values(), left_px=-LEFT_PX, width_px=width_px, bottom_px=HEADER_PX)
    else:
        label_line_ends(axes, [(*end, keys[policy]) for policy, end in ends.items()])
    return figure


@drawing()
def cost_figure(comparison: Comparison, width_px: float = WIDE_PX) -> Figure:
    """Draw instance-seconds per 1,000 attained requests against rate, where a policy is usable.

    A line ends where attainment falls below `USABLE_SHARE`: past it, cost says little. Ends lie anywhere,
    so names stand in a legend at every width.
    """
    figure, axes = _new_axes(comparison, width_px, height_px=340, has_legend=True)
    write_title(figure, "instance-seconds per 1,000 attained requests")
    keys, top = _keys(comparison), 0.0
    for policy in _back_to_front(comparison.policies):
        points = [p for p in curve(comparison, policy) if p.attainment >= USABLE_SHARE]
        if points:
            costs = [p.cost for p in points]
            draw_line(axes, [p.rate_rps for p in points], costs, keys[policy])
            top = max(top, *costs)
    scale_amount(axes, top)
    draw_legend(axes, keys.values(), left_px=-LEFT_PX, width_px=width_px, bottom_px=HEADER_PX)
    return figure


def _new_axes(comparison: Comparison, width_px: float, height_px: float, *, has_legend: bool) -> tuple[Figure, Axes]:
    """Make axes over the offered rate, with room for names at line ends or a legend."""
    right_px, top_px = 14.0, float(TITLE_PX + HEADER_PX)
    if has_legend:
        top_px += legend_height_px(_keys(comparison).values(), width_px)
    else:
        right_px = max(text_px(p) for p in comparison.policies) + 24
    figure = new_figure(width_px, height_px)
    axes = add_axes(figure, left_px=LEFT_PX, right_px=right_px, top_px=top_px, bottom_px=BOTTOM_PX)
    scale_rate(axes, [run.rate_rps for run in comparison.runs], optimum_of(comparison))
    return figure, axes


def _has_legend(comparison: Comparison, width_px: float) -> bool:
    """Tell whether names don't fit beside the line ends: no room, long names, or ends at different rates."""
    ends = {points[-1].rate_rps for policy in comparison.policies if (points := curve(comparison, policy))}
    return width_px < NARROW_PX or len(ends) > 1 or max(text_px(p) for p in comparison.policies) > 0.3 * width_px


def _back_to_front(policies: Sequence[str]) -> list[str]:
    """Draw polyserve last, so that nothing hides it."""
    return sorted(policies, key=lambda policy: (is_ours(policy), policy == OURS))


def _keys(comparison: Comparison) -> dict[str, Key]:
    return {key.text: key for key in policy_keys(comparison.policies)}
