"""Names beside lines: at their ends where there is room, else in a legend above the axes.

Neither ever overlaps: end labels are pushed apart and tied to their line by a thin leader, and a legend
breaks into as many rows as the width asks for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polyslo.report.canvas import FONT_PX
from polyslo.report.palette import placeholder, policy_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE_PX = 18  # height of a legend row, and least distance of two end labels
SWATCH_PX = 34
MARKER_PX = 6
GAP_PX = 18
LEADER_PX = 16


@dataclass(frozen=True, slots=True)
class Key:
    """One legend entry: a line style, or a filled swatch when `dash` is None."""

    text: str
    colour: str
    dash: Any = None
    marker: str = ""
    width_px: float = 1.5


def text_px(text: str) -> float:
    """Measure a label as matplotlib would set it in bold: no font that a reader has is much wider."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", weight="bold", size=FONT_PX)
    width_px, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width_px)


def shorten(text: str, width_px: float) -> str:
    """Cut a label to a width, with an ellipsis."""
    if text_px(text) <= width_px:
        return text
    kept = next((n for n in range(len(text) - 1, 1, -1) if text_px(text[:n] + "…") <= width_px), 1)
    return text[:kept] + "…"


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions as little as possible so that neighbours are `gap` apart, inside [low, high].

    Order is kept. When they can't all fit, they are spaced evenly over the interval.
    """
    count = len(wanted)
    if count > 1 and (count - 1) * gap > high - low:
        gap = (high - low) / (count - 1)
    order = sorted(range(count), key=lambda i: wanted[i])
    blocks: list[tuple[float, list[int]]] = []  # (first position, members): members stand `gap` apart
    for i in order:
        blocks.append((_clamp(wanted[i], low, high), [i]))
        while len(blocks) > 1 and blocks[-2][0] + gap * len(blocks[-2][1]) > blocks[-1][0]:
            members = blocks[-2][1] + blocks[-1][1]
            del blocks[-2:]
            start = sum(wanted[m] - gap * place for place, m in enumerate(members)) / len(members)
            blocks.append((_clamp(start, low, high - gap * (len(members) - 1)), members))
    placed = [0.0] * count
    for start, members in blocks:
        for place, member in enumerate(members):
            placed[member] = start + gap * place
    return placed


def policy_keys(policies: Sequence[str]) -> list[Key]:
    """Return a key per policy, told apart among `policies`."""
    styles = [(policy, policy_style(policy, policies)) for policy in policies]
    return [Key(policy, s.colour, s.dash, s.marker, s.width_px) for policy, s in styles]


def draw_line(axes: Axes, xs: Sequence[float], ys: Sequence[float], key: Key) -> None:
    """Draw a line with a marker at each point."""
    axes.plot(
        xs,
        ys,
        color=key.colour,
        linestyle=key.dash,
        linewidth=key.width_px,
        marker=key.marker,
        markersize=MARKER_PX,
        markeredgecolor=placeholder("surface"),
        markeredgewidth=0.8,
        clip_on=False,
    )


def label_line_ends(axes: Axes, ends: Sequence[tuple[float, float, Key]]) -> None:
    """Write each line's name right of the axes, level with its end `(x, y)` in data units or near it."""
    to_px = axes.transData.transform
    wanted = [float(to_px((x, y))[1]) - axes.bbox.y0 for x, y, _ in ends]
    placed = spread(wanted, LINE_PX, 0.0, axes.bbox.height)
    from_px = axes.transData.inverted().transform
    for (x, y, key), at_px in zip(ends, placed, strict=True):
        leader_end = from_px((axes.bbox.x1 + LEADER_PX - 4, axes.bbox.y0 + at_px))
        axes.plot(
            [x, leader_end[0]],
            [y, leader_end[1]],
            color=placeholder("grid"),
            zorder=1,
            linewidth=1,
            clip_on=False,
        )
        axes.annotate(
            key.text,
            xy=(axes.bbox.width + LEADER_PX, at_px),
            xycoords="axes points",
            va="center",
            ha="left",
            color=key.colour,
            annotation_clip=False,
        )


def legend_height_px(keys: Iterable[Key], width_px: float) -> float:
    """Height that a legend takes at a width, its gap to the axes included."""
    return LINE_PX * len(_rows(keys, width_px)) + 6


def draw_legend(axes: Axes, keys: Iterable[Key], *, left_px: float, width_px: float, bottom_px: float) -> None:
    """Draw a legend above the axes, its lowest row `bottom_px` above them, from `left_px` (of the axes)."""
    rows = _rows(keys, width_px)
    for number, row in enumerate(rows):
        y_px = axes.bbox.height + bottom_px + LINE_PX * (len(rows) - number - 0.5)
        x_px = left_px
        for key in row:
            _draw_key(axes, key, x_px, y_px, width_px)
            x_px += _key_px(key)


def write_in_row(axes: Axes, text: str, x_px: float, row: float, **style: Any) -> None:
    """Write at a row, `x_px` pixels right of the axes' left edge."""
    style = {"va": "center", "color": placeholder("ink"), **style}
    axes.text(x_px / axes.bbox.width, row, text, transform=axes.get_yaxis_transform(), **style)


def _draw_key(axes: Axes, key: Key, x_px: float, y_px: float, width_px: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    width, height = axes.bbox.width, axes.bbox.height
    if key.dash is None:
        size = FONT_PX * 0.9
        corner = ((x_px + 4) / width, (y_px - size / 2) / height)
        box = Rectangle(corner, size * 1.4 / width, size / height, transform=axes.transAxes)
        box.set(facecolor=key.colour, edgecolor="none", clip_on=False)
        axes.add_artist(box)
    else:
        xs = [(x_px + part * (SWATCH_PX - 6)) / width for part in (0, 0.5, 1)]
        line = Line2D(xs, [y_px / height] * 3, transform=axes.transAxes, clip_on=False)
        line.set(color=key.colour, linestyle=key.dash, linewidth=key.width_px, marker=key.marker)
        line.set(markevery=[1], markersize=5.5)
        axes.add_artist(line)
    text = shorten(key.text, width_px - SWATCH_PX)
    axes.annotate(
        text,
        xy=(x_px + SWATCH_PX, y_px),
        xycoords="axes points",
        va="center",
        ha="left",
        color=placeholder("ink"),
        annotation_clip=False,
    )


def _rows(keys: Iterable[Key], width_px: float) -> list[list[Key]]:
    rows: list[list[Key]] = [[]]
    used_px = 0.0
    for key in keys:
        if rows[-1] and used_px + _key_px(key) - GAP_PX > width_px:
            rows.append([])
            used_px = 0.0
        rows[-1].append(key)
        used_px += _key_px(key)
    return rows


def _key_px(key: Key) -> float:
    return SWATCH_PX + text_px(key.text) + GAP_PX


def _clamp(value: float, low: float, high: float) -> float:
    return math.nan if math.isnan(value) else max(low, min(value, max(low, high)))
