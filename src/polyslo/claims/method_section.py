"""How the numbers were made: definitions, seeds, tuning, and how long the runs were."""

from __future__ import annotations

from polyslo.claims.draft import TUNING_RATIO
from polyslo.claims.evaluation import CONTENDING_RATIO, LEADING, TUNING_TOLERANCE
from polyslo.claims.markdown import bullets, plain, table
from polyslo.claims.numbers import target_text
from polyslo.claims.results import Claims
from polyslo.claims.side_runs import ABLATION_TOLERANCE
from polyslo.claims.verdict import by_mode
from polyslo.claims.work import TOLERANCE_RATIO
from polyslo.report.notation import MISSING, count_text, percent_cell_text, rate_text
from polyslo.sim.run import COOLDOWN_RATIO, WARMUP_RATIO
from polyslo.workload.slo import RAISED_TO_IDLE


def method_section(claims: Claims) -> str:
    """Return definitions, and run lengths by workload."""
    targets = " and ".join(target_text(target) for target in claims.targets)
    near = "if it is the best of all" if claims.is_quick else f"with {CONTENDING_RATIO:.0%} of the best of all or more"
    further = f" What is chosen is, {near}, scored with {count_text(len(claims.seeds) - 1, 'further seed')}."
    further = further if len(claims.seeds) > 1 else ""
    chosen = (
        " Of each policy the best at each target is chosen."
        if claims.is_quick
        else f" Disaggregated, a best chunk and a best split are then tried together, and splits further on. Of each "
        f"policy the {LEADING} best at each target, and the one without options, run at full length, and the best of "
        "these is chosen."
    )
    without = "" if claims.is_quick else "; the best ones also without relegation, which all others have"
    coarser = (
        ""
        if claims.is_quick
        else f" (to {TUNING_TOLERANCE:.0%} where parameters are chosen, to {ABLATION_TOLERANCE:.0%} where mechanisms "
        "are switched off)"
    )
    short = "" if claims.is_quick else f", in runs of {TUNING_RATIO:.0%} of the length"
    sentences = [
        "**DSLO**: token i of a request (i = 0, 1, …) is due at arrival + TTFT + i · TPOT. A request attains its SLO "
        "when every token is on time.",
        "**Attainment**: the share of requests that attain their SLO, of all that arrived. Refused, relegated and "
        "unfinished ones are misses.",
        f"**Goodput** at a target ({targets}): the highest offered rate at which attainment is at least the target. A "
        f"search narrows it to {TOLERANCE_RATIO:.0%} of the fluid optimum and interpolates{coarser}.",
        "**Fluid optimum**: what as many instances would serve with perfect batches, every request at its own TPOT, "
        "without bursts or whole instances.",
        f"**Scored**: the first {WARMUP_RATIO:.0%} of the arrivals' span are warm-up, the last {COOLDOWN_RATIO:.0%} "
        "cool-down; neither is scored.",
        "**The same for all**: requests, SLOs, seeds and profile.",
        f"**Tuning**: every variant of every baseline is searched with the first seed{short}{without}.{chosen}"
        f"{further} The first seed counts in the score, too: where that favours anyone, it is the baseline. polyserve "
        "has no parameter that is tuned. static-tiers has its tiers' sizes from the fluid need; no search varies them.",
        "**Rounding**: ratios over baselines are cut, and costs over needs rounded up, so that no bound is met by it.",
        f"**Intervals**: 95%, Student's t over {count_text(len(claims.seeds), 'seed')}.",
        f"**SLOs**: a request whose drawn TTFT is out of reach even on an idle instance is given {RAISED_TO_IDLE:g} "
        "times its idle TTFT; the table says how often.",
    ]
    if any(cell.is_recorded for cell in claims.cells):
        sentences.append(
            "**Recorded arrivals** are kept on a stretched clock: a rate is reached by running the trace's clock "
            "faster or slower, so bursts keep their shape and change their length."
        )
    parts = ["## How it was measured", bullets(sentences), _runs_table(claims)]
    return "\n\n".join(
        [*parts, "More: [simulator.md](simulator.md), [policies.md](policies.md), [profiles.md](profiles.md)."]
    )


def _runs_table(claims: Claims) -> str:
    """Tabulate the length of runs and how many TTFTs were raised, by workload and mode."""
    cells = {(cell.workload, cell.mode): cell for cell in claims.cells}
    modes = [mode for mode, _ in by_mode(claims)]
    rows = []
    for workload in dict.fromkeys(cell.workload for cell in claims.cells):
        row = [plain(workload)]
        for mode in modes:
            cell = cells.get((workload, mode))
            row += [rate_text(cell.duration_s), percent_cell_text(cell.raised_ratio)] if cell else [MISSING, MISSING]
        rows.append(row)
    header = ["workload", *(name for mode in modes for name in (f"{mode.upper()} run, s", "TTFTs raised"))]
    return table(header, rows, "l" + "r" * (len(header) - 1))
