"""Axes that several figures share: the offered rate, time, attainment, amounts, and the fluid optimum.

Ticks are chosen here and set as fixed texts, few enough for the width that labels can't meet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from polyslo.report.notation import rate_text
from polyslo.report.palette import placeholder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOTTOM_PX = 42  # margin under the axes: tick labels and the axis title
HEADER_PX = 24  # margin above the axes that names the optimum
TICK_PX = 66  # least distance of two tick labels
LOG_TICK_PX = 30  # the same upwards, on a logarithmic axis


def scale_rate(axes: Axes, rates_rps: Sequence[float], optimum_rps: float | None) -> None:
    """Make the x axis the offered rate, wide enough for the rates and the optimum, which it marks."""
    lowest, highest = min(rates_rps), max([*rates_rps, optimum_rps or 0.0])
    margin = 0.03 * (highest - lowest) or 1.0
    axes.set_xlim(lowest - margin, highest + margin)
    set_x_ticks(axes, "offered rate (requests/s)")
    if optimum_rps is not None:
        _mark_optimum(axes, optimum_rps)


def scale_goodput(axes: Axes, highest_rps: float, optimum_rps: float | None) -> None:
    """Make the x axis a goodput from zero, wide enough for `highest_rps` and the optimum, which it marks."""
    axes.set_xlim(0, 1.03 * max(highest_rps, optimum_rps or 0.0))
    set_x_ticks(axes, "goodput (requests/s)")
    if optimum_rps is not None:
        _mark_optimum(axes, optimum_rps)


def scale_instances(axes: Axes, highest: float, fluid_instances: float) -> None:
    """Make the x axis instances from zero, wide enough for `highest` and the fluid optimum's need, which it marks."""
    axes.set_xlim(0, 1.03 * max(highest, fluid_instances))
    set_x_ticks(axes, "instances", whole=True)
    _mark_optimum(axes, fluid_instances)


def set_x_ticks(axes: Axes, title: str, *, whole: bool = False) -> None:
    """Choose round ticks, whole ones if asked, for the limits of the x axis; write its title under its right end."""
    ticks = _round_ticks(*axes.get_xlim(), max(2, int(axes.bbox.width / TICK_PX)), whole=whole)
    axes.set_xticks(ticks, [rate_text(tick) for tick in ticks])
    _write_x_title(axes, title)


def _write_x_title(axes: Axes, title: str) -> None:
    axes.annotate(
        title,
        xy=(axes.bbox.width, -BOTTOM_PX + 4),
        xycoords="axes points",
        ha="right",
        va="bottom",
        color=placeholder("muted"),
        annotation_clip=False,
    )


def scale_log(axes: Axes, x: tuple[float, float], y: tuple[float, float], title: str) -> None:
    """Make both axes logarithmic over the ranges given and a little more, with few, round, plain ticks."""
    axes.set(xscale="log", yscale="log")
    axes.set_xlim(x[0] / 1.15, x[1] * 1.15)
    axes.set_ylim(y[0] / 1.15, y[1] * 1.15)
    axes.minorticks_off()
    xs = _log_ticks(*axes.get_xlim(), int(axes.bbox.width / TICK_PX))
    ys = _log_ticks(*axes.get_ylim(), int(axes.bbox.height / LOG_TICK_PX))
    axes.set_xticks(xs, [short_text(tick) for tick in xs], minor=False)
    axes.set_yticks(ys, [short_text(tick) for tick in ys], minor=False)
    _write_x_title(axes, title)


def short_text(number: float) -> str:
    """Write a round number briefly: 0.5, 20, 5k, 1M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"


def scale_amount(axes: Axes, top: float, num_ticks: int = 5) -> None:
    """Make the y axis an amount from zero to a little over `top`."""
    axes.set_ylim(0, 1.06 * top or 1)
    ticks = _round_ticks(*axes.get_ylim(), num_ticks)
    axes.set_yticks(ticks, [f"{tick:,g}" for tick in ticks])


def scale_share(axes: Axes, lowest: float, targets: Sequence[float]) -> None:
    """Make the y axis a share from a round floor under `lowest` up to 1, with a dotted line a target.

    Targets are ticks themselves; a plain tick too near to one gives way.
    """
    step = 0.1 if lowest >= 0.5 else 0.2
    floor = max(0.0, math.floor(lowest / step - 1e-9) * step) if math.isfinite(lowest) else 0.0
    axes.set_ylim(floor, 1.0)
    gap = 18 / axes.bbox.height * (1 - floor)
    kept: list[float] = []
    for target in sorted(targets, reverse=True):
        if all(abs(target - other) > gap for other in kept):
            kept.append(target)
        axes.axhline(target, color=placeholder("muted"), linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    plain = [round(floor + step * i, 1) for i in range(10)]
    ticks = [t for t in plain if t < 0.95 and all(abs(t - target) > gap for target in kept)]
    axes.set_yticks([*ticks, *kept], [*(f"{t:.1f}" for t in ticks), *(f"{t:.2f}" for t in kept)])


def _round_ticks(low: float, high: float, num_ticks: int, *, whole: bool = False) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(num_ticks, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high]


def _log_ticks(low: float, high: float, num_ticks: int) -> list[float]:
    """Choose the finest of 1-2-5, 1-5, decades and every so many decades that gives at most `num_ticks`."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [[step * 10.0**e for e in exponents for step in steps] for steps in ((1, 2, 5), (1, 5), (1,))]
    choices += [[10.0**e for e in exponents if e % apart == 0] for apart in (2, 3, 4)]
    inside = [[tick for tick in ticks if low <= tick <= high] for ticks in choices]
    return next((ticks for ticks in inside if len(ticks) <= num_ticks), inside[-1])


def _mark_optimum(axes: Axes, optimum: float) -> None:
    """Draw the fluid optimum as a vertical line, named above the axes on the side that has room."""
    axes.axvline(optimum, color=placeholder("ink"), linewidth=1.2)
    low, high = axes.get_xlim()
    place = (optimum - low) / (high - low)
    axes.annotate(
        f"fluid optimum {rate_text(optimum)}",
        xy=(place * axes.bbox.width, axes.bbox.height + 6),
        xycoords="axes points",
        ha="right" if place > 0.5 else "left",
        va="bottom",
        color=placeholder("ink"),
        annotation_clip=False,
    )
