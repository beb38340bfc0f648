"""The page's figures: their names, words and drawings, and the two files that each becomes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from polyslo.claims.load_figure import load_figure
from polyslo.claims.markdown import code, listed, opening, picture
from polyslo.claims.numbers import target_text
from polyslo.claims.results import Cell, Claims
from polyslo.claims.seen_figure import best_variants, seen_figure
from polyslo.claims.share_figure import share_figure
from polyslo.claims.shown import LIGHT_LOAD, LOAD, MIX, ShownRuns
from polyslo.claims.verdict import by_mode
from polyslo.report.canvas import save_figure
from polyslo.report.notation import mode_text, rate_text
from polyslo.report.palette import DARK, LIGHT
from polyslo.report.run_figures import gradient_figure, instances_figure, moment_text
from polyslo.sim.results import RunResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "claims"  # beside the page
CURVES = ("azure2023-conv", "sharegpt")  # whose attainment is drawn against the rate


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure with its name, which its files have, and its words."""

    name: str
    alt: str
    caption: str
    figure: Figure

    @property
    def embedded(self) -> str:
        """The Markdown that shows it."""
        return picture(f"{FOLDER}/{self.name}", self.alt, self.caption)

    def save(self, folder: Path) -> None:
        """Write it in both themes."""
        for theme in (LIGHT, DARK):
            save_figure(self.figure, folder / f"{self.name}-{theme.name}.svg", theme)


def draw(claims: Claims, runs: ShownRuns) -> dict[str, Drawn]:
    """Draw all figures, by name."""
    found = [*_shares(claims), *_curves(claims), *_loads(claims), *_runs(runs)]
    return {drawn.name: drawn for drawn in found}


def _shares(claims: Claims) -> Iterator[Drawn]:
    targets = listed([target_text(target) for target in claims.targets])
    for mode, cells in by_mode(claims):
        text = f"goodput at {targets} attainment as a share of the fluid optimum, {mode_text(mode)}"
        yield Drawn(
            f"goodput-{mode}",
            f"Bars: polyserve and the best baseline on every workload, {text}.",
            f"{opening(text)}; at the right, polyserve over the best baseline, bold where it is ahead and intervals "
            "do not overlap. Thin lines are 95% intervals.",
            share_figure(cells, claims.targets),
        )


def _curves(claims: Claims) -> Iterator[Drawn]:
    for cell in claims.cells:
        if cell.workload in CURVES:
            where = f"{cell.workload}, {mode_text(cell.mode)}"
            names = [code(tried.policy) for tried in best_variants(cell, claims.targets[0]) if ":" in tried.policy]
            tuned = f" Parameters: {listed(names)}." if names else ""
            yield Drawn(
                f"attainment-{cell.mode}-{cell.workload}",
                f"Lines: attainment of every policy over the offered rate on {where}.",
                f"Attainment over the offered rate on {where}: the runs of the searches, first seed, each policy with "
                f"its best parameters at {target_text(claims.targets[0])}.{tuned}",
                seen_figure(cell, claims.targets),
            )


def _loads(claims: Claims) -> Iterator[Drawn]:
    cells: list[Cell] = [cell for cell in claims.cells if cell.loads]
    if cells:
        yield Drawn(
            "cost",
            "Panels: instances that polyserve owns over the fluid need, by load, on every workload.",
            "Mean instances owned by tiers (and the prefill side) over the instances that the fluid optimum would use.",
            load_figure(cells),
        )


def _runs(runs: ShownRuns) -> Iterator[Drawn]:
    moving, light = runs.moving, runs.light
    yield Drawn(
        "instances",
        "Areas: the instances that each tier and the idle pool own over time, while the SLO mix turns round.",
        f"Who owns the {moving.num_instances} instances while the SLO mix turns round (mix {code(MIX)}): "
        f"{_where(moving)}, {LOAD:.0%} of the smaller optimum of the mixes at its beginning and end.",
        instances_figure(moving),
    )
    moment_s = _middle_s(light)
    yield Drawn(
        "gradient",
        "Bars: the load of every instance at one moment, by tier, the most loaded first.",
        f"The load gradient at light load: {_where(light)}, {LIGHT_LOAD:.0%} of the optimum, at "
        f"{moment_text(light, moment_s)}. One bar an instance that a tier owns, of {light.num_instances}.",
        gradient_figure(light, moment_s),
    )


def _where(run: RunResult) -> str:
    return f"{run.workload} at {rate_text(run.rate_rps)} requests/s, {mode_text(run.mode)}"


def _middle_s(run: RunResult) -> float | None:
    return run.timeline.time_s[len(run.timeline.time_s) // 2] if run.timeline else None
