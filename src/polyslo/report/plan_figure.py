"""Fleets as bars: a bar a policy, stacked by who owns its instances on average, against the fluid optimum's need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyslo.report.canvas import add_axes, drawing, new_figure
from polyslo.report.curves import is_ours
from polyslo.report.labels import Key, draw_legend, legend_height_px, shorten, text_px, write_in_row
from polyslo.report.notation import tier_name
from polyslo.report.palette import placeholder, tier_role
from polyslo.report.scales import BOTTOM_PX, HEADER_PX, scale_instances
from polyslo.sim.plan import PlanResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE_PX = 720
ROW_PX = 30
LEAST_IDLE = 0.005  # instances; less reads 0.00
NUMBER_PX = 44  # margin right of the bars: the size of the fleet


@dataclass(frozen=True, slots=True)
class Part:
    """What one owner holds of a fleet, on average; `role` is its colour's."""

    name: str
    role: str
    instances: float


def tpots_of(results: Sequence[PlanResult]) -> list[float]:
    """List the tiers of all fleets, tight to loose; where tiers are learned, fleets can differ in theirs."""
    return sorted({tier.tpot_ms for result in results for tier in result.runs[0].tiers})


def owned_parts(result: PlanResult, tpots_ms: Sequence[float]) -> list[Part]:
    """List who owns a fleet: tiers, tight to loose (or all at once, where no tier owns any), prefill, nobody.

    `tpots_ms` are the tiers of all fleets, each with a colour.
    """
    names = [tier.tpot_ms for tier in result.runs[0].tiers]
    roles = [tier_role(tpots_ms.index(tpot_ms), len(tpots_ms)) for tpot_ms in names]
    owned = [result.mean_instances(k) for k in range(len(names))]
    if result.has_tiers:
        parts = [Part(tier_name(names[k]), roles[k], owned[k]) for k in range(len(names))]
    else:
        parts = [Part("any tier", "muted", sum(owned))]
    if result.runs[0].mode == "pd":
        parts.append(Part("prefill", "prefill", result.mean_prefill_instances()))
    idle = result.mean_idle_instances()
    return [*parts, Part("idle", "idle", idle)] if idle >= LEAST_IDLE else parts


@drawing()
def plan_figure(results: Sequence[PlanResult], width_px: float = WIDE_PX) -> Figure:
    """Draw the fleet of every policy, in the order given."""
    keys = list(_keys(results))
    left_px = min(0.42 * width_px, max(text_px(result.policy) for result in results) + 16)
    top_px = HEADER_PX + legend_height_px(keys, width_px) + 6
    figure = new_figure(width_px, len(results) * ROW_PX + BOTTOM_PX + top_px)
    axes = add_axes(figure, left_px=left_px, right_px=NUMBER_PX, top_px=top_px, bottom_px=BOTTOM_PX)
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.set_yticks([])
    scale_instances(axes, max(result.num_instances for result in results), results[0].fluid_instances)
    for row, result in enumerate(results):
        weight = "bold" if is_ours(result.policy) else "normal"
        write_in_row(axes, shorten(result.policy, left_px - 10), -8, row, ha="right", fontweight=weight)
        number_px = axes.bbox.width + NUMBER_PX - 2
        write_in_row(axes, f"{result.num_instances:,}", number_px, row, ha="right", fontweight=weight)
        end = 0.0
        for part in owned_parts(result, tpots_of(results)):
            axes.barh(row, part.instances, left=end, height=0.62, color=placeholder(part.role), linewidth=0)
            end += part.instances
    draw_legend(axes, keys, left_px=-left_px, width_px=width_px, bottom_px=HEADER_PX + 6)
    return figure


def _keys(results: Sequence[PlanResult]) -> Iterator[Key]:
    """Name every owner once: tiers, then all tiers at once, prefill and idle, where some fleet has them."""
    tpots_ms = tpots_of(results)
    names = {p.role: p.name for r in results for p in owned_parts(r, tpots_ms) if p.instances > 0}
    for role in [*(tier_role(k, len(tpots_ms)) for k in range(len(tpots_ms))), "muted", "prefill", "idle"]:
        if role in names:
            yield Key(names[role], placeholder(role))
