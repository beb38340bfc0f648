"""The page that an evaluation becomes: `claims.md`, and its figures in the folder `claims` beside it.

Every number comes from the `Claims` value, and sentences follow the numbers. Files are written whole or not at all:
all of them are made in a folder of their own first, then take the old ones' places.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from errno import EISDIR
from pathlib import Path

from polyslo.claims import figures
from polyslo.claims.ablation_section import ablation_section
from polyslo.claims.cost_section import cost_section
from polyslo.claims.goodput_section import against_best, by_tier, every_policy, tuning
from polyslo.claims.markdown import code, listed, opening
from polyslo.claims.method_section import method_section
from polyslo.claims.numbers import duration_text
from polyslo.claims.results import Claims
from polyslo.claims.sensitivity_section import sensitivity_section
from polyslo.claims.shown import ShownRuns, shown_runs
from polyslo.claims.verdict import by_mode
from polyslo.claims.verdict_section import verdict_section
from polyslo.errors import ConfigError
from polyslo.report.notation import count_text, mode_text

PAGE = "claims.md"


def write_page(
    claims: Claims,
    silicon_markdown: str | None,
    folder: Path,
    *,
    speed_markdown: str | None = None,
    runs: Callable[[], ShownRuns] = shown_runs,
) -> None:
    """Write the page and its figures into a folder, which is made if need be.

    The further parts are Markdown, with or without a heading of their own. `runs` makes the runs that are shown over
    time. Raises `ConfigError` where files can't be written; what was there before is then left as it was.
    """
    drawn = figures.draw(claims, runs())
    text = page_text(claims, drawn, silicon_markdown, speed_markdown)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".claims-", dir=folder) as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            (new / figures.FOLDER).mkdir(parents=True)
            for figure in drawn.values():
                figure.save(new / figures.FOLDER)
            (new / PAGE).write_text(text, encoding="utf-8")
            _exchange(new, folder, old)
    except OSError as error:
        raise ConfigError(f"{folder}: can't write the page there, {error.strerror}; name another folder") from error


def page_text(
    claims: Claims,
    drawn: Mapping[str, figures.Drawn],
    silicon_markdown: str | None = None,
    speed_markdown: str | None = None,
) -> str:
    """Return the page, with the figures that were drawn."""

    def shown(prefix: str) -> list[str]:
        return [figure.embedded for name, figure in drawn.items() if name.startswith(prefix)]

    goodputs = [
        part
        for mode, _ in by_mode(claims)
        for part in (f"### {opening(mode_text(mode))}", *shown(f"goodput-{mode}"), against_best(claims, mode))
    ]
    parts = [
        _head(claims),
        verdict_section(claims),
        "## Goodput against the best baseline",
        *goodputs,
        every_policy(claims),
        *shown("attainment-"),
        by_tier(claims),
        "## Cost below the optimum",
        cost_section(claims),
        *shown("cost"),
        "## A fleet over time",
        *shown("instances"),
        *shown("gradient"),
        ablation_section(claims),
        sensitivity_section(claims),
        tuning(claims),
        _headed("On silicon", silicon_markdown),
        _headed("Speed", speed_markdown),
        method_section(claims),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(claims: Claims) -> str:
    workloads = len({cell.workload for cell in claims.cells if not cell.is_recorded})
    traces = len({cell.workload for cell in claims.cells if cell.is_recorded})
    modes = " and ".join(mode_text(mode) for mode, _ in by_mode(claims))
    recorded = f", and {count_text(traces, 'trace')} with their own arrivals" if traces else ""
    parts = [
        "# Claims",
        "PolyServe ([arXiv:2507.17769](https://arxiv.org/abs/2507.17769)) claims, from its own simulator, goodput of "
        "up to 1.23x (disaggregated) and 1.18x (co-located) that of the best baseline, up to 92.5% of the optimal "
        "goodput, and fewer instances at light load. This page says what polyslo's simulator finds, losses included.",
        f"{count_text(workloads, 'workload')} with Poisson arrivals{recorded}, {modes}, {claims.num_instances} "
        f"instances, profile {code(claims.profile)}, {count_text(len(claims.seeds), 'seed')} "
        f"({listed([str(seed) for seed in claims.seeds])}). polyslo {claims.version}, {claims.date}.",
        f"Computed in {duration_text(claims.took_s)}{_machines_text(claims)}.",
        f"This file is generated: {code('polyslo claims')} writes it again, {code('polyslo claims --quick')} "
        "prints its main table within minutes, with wide intervals.",
    ]
    if claims.is_quick:
        parts.append(
            "**A quick run**: shorter runs, fewer seeds, fewer variants of the baselines, nothing ablated. It shows "
            "the page's form and is no evidence."
        )
    if claims.num_unablated + claims.num_undisturbed:
        parts.append(
            f"**Not whole**: {count_text(claims.num_unablated, 'workload')} (by mode) still to be ablated, "
            f"{count_text(claims.num_undisturbed, 'level')} of disturbances still to be run; they are left out."
        )
    return "\n\n".join(parts)


def _machines_text(claims: Claims) -> str:
    """Name the machines that computed, if they were noted."""
    if len(claims.machines) < 2:
        return "".join(f" on one machine: {machine}" for machine in claims.machines)
    return f" on several machines: {'; '.join(map(str, claims.machines))}"


def _headed(title: str, markdown: str | None) -> str:
    """Return a further part under a heading: its own, where it has one."""
    text = (markdown or "").strip()
    return text if not text or text.startswith("#") else f"## {title}\n\n{text}"


def _exchange(new: Path, folder: Path, old: Path) -> None:
    """Move every file of `new` to its place in `folder`, what was there to `old`; all back when one can't be moved."""
    moved: list[Path] = []
    try:
        for file in sorted(path.relative_to(new) for path in new.rglob("*") if path.is_file()):
            moved.append(file)
            for parent in (old, folder):
                (parent / file).parent.mkdir(parents=True, exist_ok=True)
            if (folder / file).is_dir():
                raise IsADirectoryError(EISDIR, f"{file} is a folder")
            if (folder / file).exists():
                (folder / file).rename(old / file)
            (new / file).replace(folder / file)
    except OSError:
        for file in moved:
            if (old / file).exists():
                (old / file).replace(folder / file)
            elif not (new / file).exists():
                (folder / file).unlink(missing_ok=True)
        raise
