"""A profile as a picture: its points, measured or estimated, on the lines that the tables make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from polyslo.profiles.library import NamedProfile
from polyslo.report.canvas import TITLE_PX, add_axes, drawing, new_figure, save_figure, write_title
from polyslo.report.labels import Key, draw_legend, legend_height_px
from polyslo.report.palette import LIGHT, Theme, placeholder, tier_role
from polyslo.report.scales import BOTTOM_PX, scale_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE_PX = 980
HEIGHT_PX = 400
LEFT_PX = 46
GAP_PX = 30  # between the panels
DECODES = (1, 8, 32, 128, 512)

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Line:
    """Points (tokens, ms) that share a parameter, and the profile's line through them."""

    name: str
    points: FloatArray  # (P, 2)
    drawn: FloatArray  # (Q, 2)


def save_profile_figure(named: NamedProfile, file: str | Path, theme: Theme = LIGHT) -> None:
    """Draw a profile into a .svg or .png file in the colours of a theme."""
    save_figure(profile_figure(named), file, theme)


@drawing()
def profile_figure(named: NamedProfile, width_px: float = WIDE_PX) -> Figure:
    """Draw decode time over KV tokens and prefill time over the chunk, both axes logarithmic."""
    figure = new_figure(width_px, HEIGHT_PX)
    dots = "estimated, not measured" if named.is_estimate else "measured"
    write_title(figure, f"{named.name}: iteration (ms); dots {dots}, lines the profile")
    panel_px = (width_px - GAP_PX) / 2
    _draw_panel(figure, _decode_lines(named), "decode: KV tokens", 0.0, panel_px)
    _draw_panel(figure, _prefill_lines(named), "prefill: tokens of the chunk", panel_px + GAP_PX, panel_px)
    return figure


def _draw_panel(figure: Figure, lines: Sequence[Line], title: str, start_px: float, width_px: float) -> None:
    colours = [placeholder(tier_role(i, len(lines))) for i in range(len(lines))]
    keys = [Key(line.name, colour, "-", "o") for line, colour in zip(lines, colours, strict=True)]
    top_px = TITLE_PX + legend_height_px(keys, width_px) + 16
    total_px = figure.bbox.width
    right_px = total_px - start_px - width_px + 8
    axes = add_axes(figure, left_px=start_px + LEFT_PX, right_px=right_px, top_px=top_px, bottom_px=BOTTOM_PX)
    for line, colour in zip(lines, colours, strict=True):
        axes.plot(*line.drawn.T, color=colour, linewidth=1.4)
        axes.plot(*line.points.T, color=colour, linestyle="", marker="o", markersize=4)
    _scale(axes, lines, title)
    draw_legend(axes, keys, left_px=-LEFT_PX, width_px=width_px, bottom_px=8)


def _scale(axes: Axes, lines: Sequence[Line], title: str) -> None:
    every = np.concatenate([part for line in lines for part in (line.points, line.drawn)])
    lowest, highest = every.min(axis=0), every.max(axis=0)
    scale_log(axes, (lowest[0], highest[0]), (lowest[1], highest[1]), title)


def _decode_lines(named: NamedProfile) -> list[Line]:
    table = named.points.decode  # decodes, context, ms
    lines = []
    for decodes in (n for n in DECODES if n in table[:, 0]):
        rows = table[table[:, 0] == decodes]
        points = np.column_stack([decodes * rows[:, 1], rows[:, 2]])
        kv = np.geomspace(points[:, 0].min(), points[:, 0].max(), 80)
        times = [1e3 * named.profile.iteration_s(decodes, 0, float(k), 0.0) for k in kv]
        lines.append(Line(f"{decodes} decode" + "s" * (decodes > 1), points, np.column_stack([kv, times])))
    return lines


def _prefill_lines(named: NamedProfile) -> list[Line]:
    table = named.points.prefill  # chunk, prefix, ms
    lines = []
    for prefix in np.unique(table[:, 1])[::2]:
        rows = table[table[:, 1] == prefix]
        chunks = np.unique(np.geomspace(rows[:, 0].min(), rows[:, 0].max(), 80).astype(int))
        times = [1e3 * named.profile.iteration_s(0, int(c), 0.0, float(prefix + c / 2)) for c in chunks]
        lines.append(Line(f"{prefix:,.0f} cached", rows[:, [0, 2]], np.column_stack([chunks, times])))
    return lines
