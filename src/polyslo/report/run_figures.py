"""Figures of one run over time: instances, pending and attainment by tier, and the load gradient.

Timelines are decimated to about one sample every few pixels. Tiers keep their colour from figure to
figure, tight to loose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from polyslo.errors import InputError
from polyslo.report.canvas import TITLE_PX, add_axes, drawing, new_figure, write_title
from polyslo.report.labels import Key, draw_legend, legend_height_px
from polyslo.report.notation import rate_text, tier_name
from polyslo.report.palette import placeholder, tier_role
from polyslo.report.samples import decimate, lowest, sample_at
from polyslo.report.scales import BOTTOM_PX, scale_amount, scale_share, set_x_ticks
from polyslo.sim.results import RunResult, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE_PX = 720
LEFT_PX = 46
RIGHT_PX = 14
PANEL_PX = 78  # height of one tier's panel
PANEL_GAP_PX = 32
PX_PER_SAMPLE = 4
TARGETS = (0.99,)


@drawing()
def instances_figure(run: RunResult, width_px: float = WIDE_PX) -> Figure:
    """Draw who owns the instances over time: tiers stacked tight to loose, prefill, the idle pool on top."""
    timeline = _timeline(run, width_px)
    keys = _tier_keys(run)
    layers: list[Sequence[int]] = list(timeline.instances)
    for name, pool in (("prefill", timeline.prefill), ("idle", timeline.idle)):
        if any(pool):
            keys.append(Key(name, placeholder(name)))
            layers.append(pool)
    top_px = TITLE_PX + legend_height_px(keys, width_px) + 6
    figure = new_figure(width_px, 300 + top_px)
    write_title(figure, "instances")
    axes = add_axes(figure, left_px=LEFT_PX, right_px=RIGHT_PX, top_px=top_px, bottom_px=BOTTOM_PX)
    base = [0] * len(timeline.time_s)
    for key, counts in zip(keys, layers, strict=True):
        top = [a + b for a, b in zip(base, counts, strict=True)]
        axes.fill_between(timeline.time_s, base, top, step="post", color=key.colour, linewidth=0)
        base = top
    scale_amount(axes, max(base))
    _scale_time(axes, timeline)
    draw_legend(axes, keys, left_px=-LEFT_PX, width_px=width_px, bottom_px=6)
    return figure


@drawing()
def pending_figure(run: RunResult, width_px: float = WIDE_PX) -> Figure:
    """Draw pending requests over time, a panel a tier, all on one scale; decimated to the peak."""
    timeline = _timeline(run, width_px)
    top = max((max(counts) for counts in timeline.pending), default=0)
    figure, panels = _panels(run, timeline, width_px, "pending requests")
    for tier, (axes, counts) in enumerate(zip(panels, timeline.pending, strict=True)):
        axes.fill_between(timeline.time_s, counts, step="post", color=_colour(run, tier), linewidth=0)
        scale_amount(axes, top, num_ticks=2)
    return figure


@drawing()
def rolling_attainment_figure(run: RunResult, width_px: float = WIDE_PX) -> Figure:
    """Draw attainment over time, a panel a tier; decimated to the lowest, with gaps where none arrived."""
    timeline = _timeline(run, width_px)
    floor = lowest([lowest(shares) for shares in timeline.attainment])
    figure, panels = _panels(run, timeline, width_px, "attainment")
    for tier, (axes, shares) in enumerate(zip(panels, timeline.attainment, strict=True)):
        axes.plot(timeline.time_s, shares, color=_colour(run, tier), linewidth=1.4, clip_on=False)
        scale_share(axes, min(floor, 0.95), TARGETS)
    return figure


@drawing()
def gradient_figure(run: RunResult, moment_s: float | None = None, width_px: float = WIDE_PX) -> Figure:
    """Draw the load of every owned instance at one moment, by tier, the most loaded first.

    Load is the expected iteration time over the tier's TPOT. Without a moment it is the busiest one.
    """
    timeline = _require_timeline(run)
    pairs = timeline.loads[sample_at(timeline, moment_s)]
    keys = _tier_keys(run)
    top_px = TITLE_PX + legend_height_px(keys, width_px) + 12
    figure = new_figure(width_px, 200 + top_px)
    write_title(figure, "expected iteration time, as a share of the TPOT")
    axes = add_axes(figure, left_px=LEFT_PX, right_px=RIGHT_PX, top_px=top_px, bottom_px=16)
    place = 0.0
    for tier in range(len(run.tiers)):
        loads = [load for owner, load in pairs if owner == tier]
        axes.bar([place + i for i in range(len(loads))], loads, width=0.78, color=_colour(run, tier))
        place += len(loads) + (0.8 if loads else 0)
    axes.set_xlim(-0.7, max(place - 0.9, 0.7))
    axes.set_xticks([])
    scale_amount(axes, max([1.0, *(load for _, load in pairs)]))
    axes.axhline(1.0, color=placeholder("ink"), linewidth=1.2, linestyle=(0, (1, 2)))
    draw_legend(axes, keys, left_px=-LEFT_PX, width_px=width_px, bottom_px=8)
    return figure


def moment_text(run: RunResult, moment_s: float | None = None) -> str:
    """Name the moment that `gradient_figure` shows, as `130 s`."""
    timeline = _require_timeline(run)
    return f"{rate_text(timeline.time_s[sample_at(timeline, moment_s)])} s"


def _require_timeline(run: RunResult) -> Timeline:
    if run.timeline is None or not run.timeline.time_s:
        raise InputError(f"run of {run.policy!r} has no timeline to draw; record one when simulating")
    return run.timeline


def _timeline(run: RunResult, width_px: float) -> Timeline:
    return decimate(_require_timeline(run), int(width_px / PX_PER_SAMPLE))


def _colour(run: RunResult, tier: int) -> str:
    return placeholder(tier_role(tier, len(run.tiers)))


def _tier_keys(run: RunResult) -> list[Key]:
    return [Key(tier_name(tier.tpot_ms), _colour(run, k)) for k, tier in enumerate(run.tiers)]


def _panels(run: RunResult, timeline: Timeline, width_px: float, title: str) -> tuple[Figure, list[Axes]]:
    """Make one panel a tier, tightest on top, each named in its upper left; only the last has a time axis."""
    num_tiers = len(run.tiers)
    step_px = PANEL_PX + PANEL_GAP_PX
    height_px = TITLE_PX + step_px * num_tiers + BOTTOM_PX
    figure = new_figure(width_px, height_px)
    write_title(figure, title)
    panels = []
    for tier in range(num_tiers):
        top_px = TITLE_PX + step_px * tier + PANEL_GAP_PX
        bottom_px = height_px - top_px - PANEL_PX
        axes = add_axes(figure, left_px=LEFT_PX, right_px=RIGHT_PX, top_px=top_px, bottom_px=bottom_px)
        axes.annotate(
            tier_name(run.tiers[tier].tpot_ms),
            xy=(0, PANEL_PX + 5),
            xycoords="axes points",
            color=placeholder("ink"),
            fontweight="bold",
            annotation_clip=False,
        )
        axes.set_xlim(timeline.time_s[0], timeline.time_s[-1])
        axes.set_xticks([])
        panels.append(axes)
    _scale_time(panels[-1], timeline)
    return figure, panels


def _scale_time(axes: Axes, timeline: Timeline) -> None:
    axes.set_xlim(timeline.time_s[0], max(timeline.time_s[-1], timeline.time_s[0] + 1e-9))
    set_x_ticks(axes, "time (s)")
