"""A run over time as plain text, for the terminal: block characters, one line a tier and quantity.

Colour carries nothing here, so the text reads the same piped into a file. Each line is scaled by
itself and says its scale at its end; attainment starts at a round floor that the heading names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from polyslo.report.notation import rate_text, share_text, tier_name
from polyslo.report.samples import Reduce, last, lowest, reduce_to, sample_at
from polyslo.sim.results import RunResult, Timeline

BLOCKS = " ▁▂▃▄▅▆▇█"
LABEL_WIDTH = 10
SCALE_WIDTH = 12


def timeline_text(run: RunResult, width: int = 80, moment_s: float | None = None) -> str:
    """Draw instances, pending and attainment per tier over time, and the load gradient at one moment.

    `moment_s` chooses the moment of the gradient; without it, the busiest one is shown.
    Returns a sentence instead when the run carries no timeline.
    """
    if run.timeline is None or not run.timeline.time_s:
        return "no timeline was recorded for this run"
    timeline = run.timeline
    num_columns = max(10, width - LABEL_WIDTH - SCALE_WIDTH - 2)
    names = [tier_name(tier.tpot_ms) for tier in run.tiers]
    pools = [("idle", timeline.idle), ("prefill", timeline.prefill)]
    owners = [*zip(names, timeline.instances, strict=True), *((n, v) for n, v in pools if any(v))]
    lines = ["instances by tier"]
    lines += [_count_line(name, values, num_columns, last) for name, values in owners]
    lines += ["", "requests pending (peak)"]
    lines += [_count_line(n, v, num_columns, max) for n, v in zip(names, timeline.pending, strict=True)]
    floor = _floor(timeline)
    lines += ["", f"attainment (low; scale {floor:g} to 1, blank: no arrivals)"]
    lines += [_share_line(n, v, floor, num_columns) for n, v in zip(names, timeline.attainment, strict=True)]
    lines += [_time_axis(timeline, num_columns), ""]
    lines += _gradient_lines(timeline, names, sample_at(timeline, moment_s), num_columns)
    return "\n".join(line.rstrip() for line in lines)


def _count_line(name: str, values: Sequence[int], num_columns: int, reduce: Reduce) -> str:
    top = max(values, default=0)
    blocks = "".join(_block(v, top) for v in reduce_to(values, num_columns, reduce))
    return _line(name, blocks, f"max {top:,}", num_columns)


def _floor(timeline: Timeline) -> float:
    """Choose the highest round floor under every attainment, so that small dips are seen."""
    low = lowest([lowest(tier) for tier in timeline.attainment])
    return next((floor for floor in (0.9, 0.8, 0.5) if low >= floor), 0.0)


def _share_line(name: str, values: Sequence[float], floor: float, num_columns: int) -> str:
    lows = reduce_to(values, num_columns, lowest)
    blocks = "".join(" " if math.isnan(v) else _block(max(v - floor, 1e-9), 1 - floor) for v in lows)
    return _line(name, blocks, f"min {share_text(lowest(values))}", num_columns)


def _line(name: str, blocks: str, scale: str, num_columns: int) -> str:
    return f"{name:>{LABEL_WIDTH}} {blocks:<{num_columns}} {scale}"


def _block(value: float, top: float) -> str:
    """Choose a block: anything above zero is visible, and only the top fills the cell."""
    if math.isnan(value) or top <= 0 or value <= 0:
        return BLOCKS[0]
    return BLOCKS[max(1, min(8, math.floor(8 * value / top + 1e-9)))]


def _time_axis(timeline: Timeline, num_columns: int) -> str:
    start, end = f"{rate_text(timeline.time_s[0])} s", f"{rate_text(timeline.time_s[-1])} s"
    used = min(num_columns, len(timeline.time_s))
    return f"{'':>{LABEL_WIDTH}} {start}{end:>{max(len(end) + 1, used - len(start))}}"


def _gradient_lines(timeline: Timeline, names: Sequence[str], sample: int, num_columns: int) -> list[str]:
    """Draw one block an instance, most loaded first: its expected iteration time over the tier's TPOT."""
    moment = rate_text(timeline.time_s[sample])
    lines = [f"load gradient at {moment} s (one block an instance; full: iterations take the TPOT)"]
    for tier, name in enumerate(names):
        loads = [load for owner, load in timeline.loads[sample] if owner == tier]
        shown = loads[: num_columns - 1] + ([math.nan] if len(loads) > num_columns else [])
        scale = f"{min(loads):.2f} to {max(loads):.2f}" if loads else "none"
        lines.append(_line(name, "".join(_block(load, 1.0) for load in shown), scale, num_columns))
    return lines
