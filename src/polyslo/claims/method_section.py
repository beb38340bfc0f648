"""How the numbers were made: definitions, seeds, tuning, and how long the runs were."""

from __future__ import annotations

from polyslo.claims.markdown import bullets, plain, table
from polyslo.claims.numbers import target_text
from polyslo.claims.results import Claims
from polyslo.claims.verdict import by_mode
from polyslo.report.notation import MISSING, count_text, percent_cell_text, rate_text
from polyslo.sim.run import COOLDOWN_RATIO, WARMUP_RATIO


def method_section(claims: Claims) -> str:
    """Return definitions, and run lengths by workload."""
    targets = " and ".join(target_text(target) for target in claims.targets)
    further = count_text(claims.seeds - 1, "further seed")
    sentences = [
        "**DSLO**: token i of a request (i = 0, 1, …) is due at arrival + TTFT + i · TPOT. A request attains its SLO "
        "when every token is on time.",
        "**Attainment**: the share of requests that attain their SLO, of all that arrived. Refused, relegated and "
        "unfinished ones are misses.",
        "**Goodput** at a target: the highest offered rate at which attainment is at least the target; here "
        f"{targets}. A search narrows it to 1% of the fluid optimum and interpolates.",
        "**Fluid optimum**: what as many instances would serve with perfect batches at every tier's TPOT, without "
        "bursts and whole instances. At a target below 1 a policy may exceed it: it may let requests miss.",
        f"**Scored**: the first {WARMUP_RATIO:.0%} of the arrivals' span is warm-up and the last {COOLDOWN_RATIO:.0%} "
        "cool-down; neither is scored.",
        "**Same for all**: every policy sees the same requests, SLOs, seeds and profile, and may relegate; the best "
        "baselines are also tried without.",
        "**Tuning**: every variant of every baseline is searched with the first seed. The best of each policy at each "
        f"target is scored with {further} more, and its first seed counts: where that favours anyone, it is the "
        "baseline. polyserve has no parameter that is tuned.",
        f"**Intervals**: 95%, Student's t over {count_text(claims.seeds, 'seed')}.",
        "**SLOs**: a request whose drawn TTFT is out of reach even on an idle instance is given twice its idle TTFT.",
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
